"""`make bench-overload`: ten times what two devices can do, sent through the front door.

Two Tritons whose model sleeps as a profile says, and everything else real. First as many callers as
keep the devices full, one request after another: that is the peak. Then ten times the peak's rate
for a while, by the clock, whoever is refused not asking again: what is admitted must be made as
fast as before, what is not must be refused at once, and when it is over the house must be as it
was.

Writes overload.json, overload.md and overload.svg.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console

from atelier.embedded.part import Part
from atelier.embedded.rooms import Room
from atelier.embedded.stack import StackOptions
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc
from benchmarks import plot
from benchmarks.claims import at, claim
from benchmarks.sleeping_repository import Sleeper, write_repository
from benchmarks.sleeping_stack import running

DEVICES, DEVICE_BYTES, CALLERS = 2, 4_000_000_000, 32
SLEEPER = Sleeper(
    "sleeper", resident_bytes=1_000_000_000, activation_bytes=100_000_000, load_seconds=0.5,
    step_a=0.04, step_c=0.04, batch_cap=4,
)  # fmt: skip
STEPS, TIMES, QUEUE = 6, 10, 40
WARM_SECONDS = 5.0

console = Console(width=120)
Door = generation_pb2_grpc.GenerationServiceStub


@dataclass
class Told:
    """What callers saw, in one phase. Seconds."""

    began: float = field(default_factory=time.monotonic)
    finished: list[float] = field(default_factory=list)  # since it began
    waited: list[float] = field(default_factory=list)  # from the call to the end
    refused: list[float] = field(default_factory=list)  # what a refusal took
    codes: Counter[str] = field(default_factory=Counter)
    with_retry_info: int = 0

    def rate(self, low: float, high: float) -> float:
        """Generations finished a second, between two moments."""
        return sum(low <= at < high for at in self.finished) / (high - low)


def main(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    seconds: Annotated[float, typer.Option(help="Of each of the three phases.")] = 30.0,
) -> None:
    """Run the three phases, and say what holds."""
    folder = Path(tempfile.mkdtemp(prefix="bench-overload-"))
    try:
        repository = folder / "repository"
        write_repository(repository, [SLEEPER])
        peak, flood, after = asyncio.run(_run(folder, repository, seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = _report(peak, flood, after, seconds)
    out.mkdir(parents=True, exist_ok=True)
    (out / "overload.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "overload.md").write_text(_page(report))
    groups = {
        name: {"finished, of the peak": told.rate(WARM_SECONDS, seconds) / report["peak"]}
        for name, told in (("peak", peak), ("ten times", flood), ("after", after))
    }
    plot.bars(out / "overload.svg", "Finished a second, of the peak", groups)
    console.print((out / "overload.md").read_text())


async def _run(folder: Path, repository: Path, seconds: float) -> tuple[Told, Told, Told]:
    def shorter(part: Part) -> None:
        if isinstance(part, Room) and part.module == "scheduler":
            part.settings = {**part.settings, "ATELIER_MAX_QUEUED": str(QUEUE)}

    options = StackOptions(DEVICES, DEVICE_BYTES, repository=repository)
    async with (
        running(folder / "state", options, prepare=shorter) as gateway,
        grpc.aio.insecure_channel(gateway) as channel,
    ):
        door = Door(channel)
        await _closed(door, 2 * WARM_SECONDS)  # loads, and the first of everything
        peak = await _closed(door, seconds)
        flood = await _open(door, TIMES * peak.rate(WARM_SECONDS, seconds), seconds)
        return peak, flood, await _closed(door, seconds)


async def _closed(door: Door, seconds: float) -> Told:
    """As many callers as keep the devices full, each asking again when it was served."""
    told = Told()

    async def caller() -> None:
        while time.monotonic() - told.began < seconds:
            await _ask(door, told)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return told


async def _open(door: Door, rate: float, seconds: float) -> Told:
    """`rate` requests a second, whatever becomes of them; waits for those that were admitted."""
    told = Told()
    asked = []
    for number in itertools.count():
        due = told.began + number / rate
        if due - told.began >= seconds:
            break
        await asyncio.sleep(due - time.monotonic())
        asked.append(asyncio.create_task(_ask(door, told)))
    await asyncio.gather(*asked)
    return told


async def _ask(door: Door, told: Told) -> None:
    image = pb.ImageSpec(prompt="sleep", steps=STEPS, guidance=1.0, seed=0)
    request = pb.GenerateRequest(create=pb.CreateGenerationRequest(model="sleeper", image=image))
    began = time.monotonic()
    try:
        async for answer in door.Generate(request, timeout=120):
            last = answer.generation
    except grpc.aio.AioRpcError as error:
        told.codes[error.code().name] += 1
        told.refused.append(time.monotonic() - began)
        details = dict(error.trailing_metadata() or ())
        told.with_retry_info += b"RetryInfo" in bytes(details.get("grpc-status-details-bin", b""))
        return
    told.codes[pb.GenerationState.Name(last.state).removeprefix("GENERATION_STATE_")] += 1
    now = time.monotonic()
    told.finished.append(now - told.began)
    told.waited.append(now - began)


def _report(peak: Told, flood: Told, after: Told, seconds: float) -> dict[str, Any]:
    best = peak.rate(WARM_SECONDS, seconds)
    kept = flood.rate(WARM_SECONDS, seconds) / best
    again = after.rate(WARM_SECONDS, seconds) / best
    refused = len(flood.refused)
    proper = flood.codes["RESOURCE_EXHAUSTED"]
    phases = {
        name: {
            "codes": dict(told.codes),
            "finished_a_second": told.rate(WARM_SECONDS, seconds),
            "seconds_p50": at(told.waited, 0.5),
            "seconds_p99": at(told.waited, 0.99),
            "refusal_p50": at(told.refused, 0.5),
            "refusal_p99": at(told.refused, 0.99),
        }
        for name, told in (("peak", peak), ("ten times", flood), ("after", after))
    }
    share = proper / refused if refused else 0.0
    informed = flood.with_retry_info / refused if refused else 0.0
    return {
        "peak": best,
        "seconds": seconds,
        "queue": QUEUE,
        "phases": phases,
        "claims": [
            claim("finished at ten times the load, of the peak", kept, "", 0.9, kept >= 0.9),
            claim("refusals that are RESOURCE_EXHAUSTED", share, "", 1.0, share == 1.0),
            claim("refusals that say when to come again", informed, "", 1.0, informed == 1.0),
            claim("finished afterwards, of the peak", again, "", 0.9, again >= 0.9),
        ],
    }


def _page(report: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {phase['finished_a_second']:.2f} | {phase['seconds_p50']:.2f} |"
        f" {phase['seconds_p99']:.2f} | {sum(phase['codes'].values())} |"
        f" {phase['codes'].get('RESOURCE_EXHAUSTED', 0)} | {1e3 * phase['refusal_p50']:.0f} |"
        f" {1e3 * phase['refusal_p99']:.0f} |"
        for name, phase in report["phases"].items()
    ]
    return "\n".join(
        [
            "# Ten times what the devices can do",
            "",
            f"Two sleeping devices, a queue of {report['queue']}, {report['seconds']:.0f} s a"
            " phase; callers, house and Tritons share this machine's two cores.",
            "",
            "| load | finished a second | seconds, p50 | p99 | asked | refused | refusal, p50 ms |"
            " p99 |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "![finished](overload.svg)",
            "",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
