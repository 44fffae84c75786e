"""`make bench-mixed`: everything at once through the whole house, and what it does to the memory.

Two runs over a fresh stack with one real Triton. First, generations of mixed kinds, steps,
samplers, seeds and guidance, sixteen at a time: each result is compared with the same request made
alone, and read by the tiny models' own judges. Then many more, of fewer steps, while the agent
tells every second what its Python objects and its whole process take (traced_agent.py): what grows
with the number of generations after the first quarter is a leak.

Writes mixed.json, mixed.md and mixed.svg.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.progress import track

from atelier.embedded.rooms import Agent
from atelier.embedded.stack import StackOptions
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc
from benchmarks import plot
from benchmarks.claims import claim
from benchmarks.mixed_wishes import FEW_STEPS, STEPS, Wish, pixels_of, wishes
from benchmarks.sleeping_stack import running
from benchmarks.step_likeness import psnr

AT_ONCE, SEED = 16, 7
GOAL_DB = 50.0  # two batches of other sizes may differ in the last bits
JUDGED = ("text", "several", "mask", "clip", "first frame")
LEAST_STEPS = 10  # below, the models themselves are not sure
LEAK_GOAL = 1024.0  # bytes of Python objects a generation
CALL_SECONDS = 1800.0  # late work waits for as long as there is work that can be on time

console = Console(width=140)


@dataclass(frozen=True)
class Made:
    """A request that was made twice: among others, and alone."""

    wish: Wish
    among: list[pb.Result]
    alone: list[pb.Result]

    @property
    def likeness(self) -> float:
        """PSNR in dB of the result that differs most."""
        pairs = zip(self.among, self.alone, strict=True)
        return min(psnr(pixels_of(one), pixels_of(other)) for one, other in pairs)

    @property
    def right(self) -> bool:
        """Whether every result shows what was asked."""
        return all(self.wish.shown(pixels_of(result)) for result in self.among)


def main(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    compared: Annotated[int, typer.Option(help="Generations that are made twice.")] = 200,
    many: Annotated[int, typer.Option(help="Generations while memory is watched.")] = 2000,
) -> None:
    """Run both, and say what holds."""
    folder = Path(tempfile.mkdtemp(prefix="bench-mixed-"))
    try:
        made, samples, seconds = asyncio.run(_run(folder, compared, many))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = _report(made, samples, many, seconds)
    out.mkdir(parents=True, exist_ok=True)
    (out / "mixed.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "mixed.md").write_text(_page(report))
    series = {
        name: [(max(1.0, s["done"]), s[key] / 2**20) for s in samples]
        for name, key in (("process", "rss"), ("Python objects", "python"))
    }
    plot.lines(out / "mixed.svg", "The agent's memory", "generations", series, unit="MiB")
    console.print((out / "mixed.md").read_text())


async def _run(
    folder: Path, compared: int, many: int
) -> tuple[list[Made], list[dict[str, float]], float]:
    told = folder / "memory.jsonl"
    os.environ["ATELIER_TRACED_TO"] = str(told)

    def traced(part: Any) -> None:
        if isinstance(part, Agent):
            part.module = "benchmarks.traced_agent"

    async with (
        running(folder / "state", StackOptions(), prepare=traced) as gateway,
        grpc.aio.insecure_channel(gateway) as channel,
    ):
        door = generation_pb2_grpc.GenerationServiceStub(channel)
        asked = list(wishes(compared, SEED, STEPS))
        among = [results async for results in _all(door, asked, AT_ONCE, "at once")]
        alone = [results async for results in _all(door, asked, 1, "one by one")]
        made = [Made(*each) for each in zip(asked, among, alone, strict=True)]
        began = time.time()
        done: list[float] = []
        async for _ in _all(door, wishes(many, SEED + 1, FEW_STEPS), AT_ONCE, "watched", done):
            pass
        seconds = time.time() - began
        await asyncio.sleep(2.0)
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    samples = [
        {**line, "done": bisect_right(done, line["at"])} for line in lines if line["at"] >= began
    ]
    return made, samples, seconds


async def _all(
    door: generation_pb2_grpc.GenerationServiceStub,
    asked: Iterable[Wish],
    at_once: int,
    name: str,
    done: list[float] | None = None,
) -> AsyncIterator[list[pb.Result]]:
    """The results of each, in order; so many under way at any time. Where the moments at which they
    were done are asked for, the results are not kept."""
    room = asyncio.Semaphore(at_once)

    async def make(wish: Wish) -> list[pb.Result]:
        async with room:
            request = pb.GenerateRequest(create=wish.request, inline_results=done is None)
            try:
                async for answer in door.Generate(request, timeout=CALL_SECONDS):
                    last = answer.generation
            except grpc.aio.AioRpcError as error:
                raise RuntimeError(f"{error.code().name}; it was last seen so: {last}") from error
        assert last.state == pb.GENERATION_STATE_SUCCEEDED, (wish.kind, last)
        if done is not None:
            done.append(time.time())
            return []
        return list(last.results)

    tasks = [asyncio.create_task(make(wish)) for wish in asked]
    for task in track(tasks, name, console=console):
        yield await task


def _report(
    made: list[Made], samples: list[dict[str, float]], many: int, seconds: float
) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for kind in dict.fromkeys(m.wish.kind for m in made):
        group = [m for m in made if m.wish.kind == kind]
        judged = [m for m in group if kind in JUDGED and _steps(m.wish) >= LEAST_STEPS]
        kinds[kind] = {
            "generations": len(group),
            "same_bytes": sum(
                [r.sha256 for r in m.among] == [r.sha256 for r in m.alone] for m in group
            ),
            "least_psnr": min(m.likeness for m in group),
            "judged": len(judged),
            "right": sum(m.right for m in judged),
        }
    settled = [s for s in samples if s["done"] >= many / 4]
    at = [s["done"] for s in settled]
    slopes = {
        key: statistics.linear_regression(at, [s[key] for s in settled]).slope
        for key in ("python", "rss")
    }
    least = min(k["least_psnr"] for k in kinds.values())
    judged, right = (sum(k[key] for k in kinds.values()) for key in ("judged", "right"))
    memory = {
        key: {"first": settled[0][key], "last": settled[-1][key], "slope": slopes[key]}
        for key in slopes
    }
    return {
        "at_once": AT_ONCE,
        "steps": STEPS,
        "kinds": kinds,
        "memory": {"generations": many, "from": many / 4, "seconds": seconds, **memory},
        "claims": [
            claim("least likeness to the same made alone", least, "dB", GOAL_DB,
                   least >= GOAL_DB),
            claim("judged results that show what was asked", right / judged, "", 0.95,
                   right / judged >= 0.95),
            claim("Python objects, growth a generation", slopes["python"], "bytes", LEAK_GOAL,
                   slopes["python"] <= LEAK_GOAL),
        ],
    }  # fmt: skip


def _steps(wish: Wish) -> int:
    return wish.request.video.steps or wish.request.image.steps


def _page(report: dict[str, Any]) -> str:
    memory = report["memory"]
    rows = [
        f"| {kind} | {k['generations']} | {k['same_bytes']} | {k['least_psnr']:.1f} |"
        f" {k['right']} of {k['judged']} |"
        for kind, k in report["kinds"].items()
    ]
    low, high = report["steps"]
    return "\n".join(
        [
            "# Everything at once",
            "",
            f"{report['at_once']} at a time: {low} to {high} steps, five samplers, any seed,"
            " through gateway, scheduler, agent and one real Triton on a CPU. Each was made again"
            " alone; 100 dB is the same. Judged are those of 10 steps and more, by the tiny models'"
            " judges; what starts from a picture is what its strength leaves, and is not judged.",
            "",
            "| kind | generations | same bytes as alone | least PSNR, dB | show what was asked |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Then {memory['generations']} more, in {memory['seconds']:.0f} s, under tracemalloc."
            f" From the {memory['from']:.0f}th on:",
            "",
            "| of the agent | then, MiB | at the end, MiB | growth, bytes a generation |",
            "|---|---|---|---|",
            *(
                f"| {name} | {memory[key]['first'] / 2**20:.1f} |"
                f" {memory[key]['last'] / 2**20:.1f} | {memory[key]['slope']:.0f} |"
                for name, key in (("Python objects", "python"), ("the process", "rss"))
            ),
            "",
            "![memory](mixed.svg)",
            "",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
