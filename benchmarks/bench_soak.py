"""`make soak MINUTES=10`: a mixed load on the whole house, and what each part holds meanwhile.

First as many generations are asked for and cancelled as fill the scheduler's journal (the latest
20,000 moments). Then the load goes on for so many minutes, and every two seconds it is noted what
each part holds: its own memory, descriptors, threads; what is shared in /dev/shm; PostgreSQL's dead
rows and the bytes of its hot tables. Of the last two thirds a line is drawn through each
(slopes.py): what surely goes up is a leak, but for what is kept on purpose and not full yet, as the
scheduler's latest 4,000 decisions (2.6 MiB; a generation makes one or two).

Writes soak.json, soak.md and soak.svg.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import grpc
import typer
from rich.console import Console

from atelier.embedded.postgres import Postgres
from atelier.embedded.stack import StackOptions, build
from atelier.embedded.state import StateDir
from atelier.embedded.supervisor import Hooks, Supervisor
from benchmarks import plot
from benchmarks.claims import claim
from benchmarks.slopes import Slope, slope, windows
from benchmarks.soak_load import Load
from benchmarks.soak_looks import of_database, of_process, shared_bytes

SEED, FILLED, LOOK_SECONDS = 7, 10_000, 2.0
SETTLED = 1 / 3  # of the time: until then caches fill, and models are loaded the first time
HOUR, MIB = 3_600.0, 2.0**20
# What is no leak even if it goes up for sure: a heap's pages come in lumps, and a pool opens a line
# when it wants one. By the hour: bytes; descriptors or threads.
LUMPS = {"private": 16 * MIB, "descriptors": 12.0, "threads": 12.0}
# A table's bytes a row, where it has rows enough to tell.
LUMP_ROW, LEAST_ROWS = 100.0, 1_000
OURS = ("scheduler", "gateway", "agent", "webhooks")

console = Console(width=140)


@dataclass
class Run:
    """All that was noted. Seconds are since the load began."""

    parts: dict[str, list[tuple[float, dict[str, float]]]] = field(default_factory=dict)
    shared: list[tuple[float, float]] = field(default_factory=list)
    tables: dict[str, list[tuple[float, dict[str, float]]]] = field(default_factory=dict)
    did: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class House:
    """What runs."""

    gateway: str
    dsn: str
    supervisor: Supervisor


def main(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    minutes: Annotated[float, typer.Option(min=0.5, help="Of load, after it was filled.")] = 10.0,
    filled: Annotated[int, typer.Option(help="Cancelled at once, before.")] = FILLED,
) -> None:
    """Run it, and say what holds."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        run = asyncio.run(_run(folder, minutes * 60, filled))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = _report(run)
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "soak.md").write_text(_page(report))
    series = {
        name: [(at, value / MIB) for at, value in windows(_of(samples, "private"))]
        for name, samples in run.parts.items()
    }
    plot.lines(out / "soak.svg", "Each part's own memory", "seconds", series, unit="MiB")
    console.print((out / "soak.md").read_text())


async def _run(folder: Path, seconds: float, filled: int) -> Run:
    run = Run()
    async with (
        _running(folder / "state") as house,
        grpc.aio.insecure_channel(house.gateway) as channel,
    ):
        load = Load(channel, SEED)
        await load.fill(filled)
        loading = asyncio.create_task(load.run())
        began = time.monotonic()
        while (at := time.monotonic() - began) < seconds and not loading.done():
            await asyncio.to_thread(_look, house, run, at)
            await asyncio.sleep(LOOK_SECONDS)
        if loading.done():
            loading.result()
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        run.seconds, run.did = at, dict(load.did)
        run.restarts = sum(k.record().restarts for k in house.supervisor.keepers.values())
    return run


@asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[House]:
    state = StateDir(folder)
    state.create()
    stack = build(state, StackOptions(require_keys=False))
    postgres = next(cast(Postgres, part) for part in stack.parts if part.name == "postgres")
    supervisor = Supervisor(stack.parts, state.logs, Hooks(notice=print))
    try:
        await supervisor.start()
        yield House(stack.gateway, postgres.dsn, supervisor)
    finally:
        await supervisor.stop()


def _look(house: House, run: Run, at: float) -> None:
    records = [keeper.record() for keeper in house.supervisor.keepers.values()]
    pids = {record.name: record.pid for record in records if record.pid}
    for name, pid in pids.items():
        run.parts.setdefault(name, []).append((at, of_process(pid)))
    sharing = [pid for name, pid in pids.items() if name == "agent" or name.startswith("triton")]
    run.shared.append((at, shared_bytes(sharing)))
    for name, told in of_database(house.dsn).items():
        run.tables.setdefault(name, []).append((at, told))


def _of(samples: list[tuple[float, dict[str, float]]], key: str) -> list[tuple[float, float]]:
    return [(at, told[key]) for at, told in samples]


def _settled(samples: list[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    return [(at, value) for at, value in samples if at >= seconds * SETTLED]


def _report(run: Run) -> dict[str, Any]:
    parts = {
        name: {kind: _told(_of(samples, kind), run.seconds) for kind in (*LUMPS, "resident")}
        for name, samples in run.parts.items()
    }
    shared = _told(run.shared, run.seconds)
    tables: dict[str, Any] = {
        name: {
            "bytes a row": _told(
                [
                    (at, (told["table"] + told["indexes"]) / max(1.0, told["rows"]))
                    for at, told in samples
                ],
                run.seconds,
            ),
            "at the end": samples[-1][1],
            "most dead": max(told["dead"] for _, told in samples),
        }
        for name, samples in run.tables.items()
    }
    errors = sum(count for name, count in run.did.items() if name.startswith("error"))
    return {
        "seconds": round(run.seconds, 1),
        "did": run.did,
        "parts": parts,
        "shared_memory": shared,
        "tables": tables,
        "claims": [
            *(
                _level(f"{name}: {kind}", told[kind], LUMPS[kind])
                for name, told in parts.items()
                if name in OURS
                for kind in LUMPS
            ),
            _level("shared memory", shared, LUMPS["private"]),
            *(
                _level(f"{name}: bytes a row", told["bytes a row"], LUMP_ROW)
                for name, told in tables.items()
                if told["at the end"]["rows"] >= LEAST_ROWS
            ),
            claim("parts that were started again", run.restarts, "", 0, run.restarts == 0),
            claim("calls that failed", errors, "", 0, errors == 0),
            claim("generations that failed", run.did.get("failed", 0), "", 0,
                  not run.did.get("failed")),
        ],
    }  # fmt: skip


def _told(samples: list[tuple[float, float]], seconds: float) -> dict[str, float]:
    """Where it began and ended, and its growth an hour with what that may be at least and most."""
    settled = _settled(samples, seconds)
    found: Slope = slope(settled)
    return {
        "first": windows(settled)[0][1],
        "last": windows(settled)[-1][1],
        "hour": found.value * HOUR,
        "low": found.low * HOUR,
        "high": found.high * HOUR,
    }


def _level(name: str, told: dict[str, float], lump: float) -> dict[str, Any]:
    """That it surely grows by no more than a lump an hour."""
    sure = max(0.0, told["low"])
    if lump == LUMPS["private"]:
        return claim(f"{name}, sure growth an hour", sure / MIB, "MiB", lump / MIB, sure <= lump)
    return claim(f"{name}, sure growth an hour", sure, "", lump, sure <= lump)


def _page(report: dict[str, Any]) -> str:
    parts = report["parts"].items()
    did = ", ".join(f"{count} {name}" for name, count in sorted(report["did"].items()))
    return "\n".join(
        [
            "# Soak",
            "",
            f"`make soak`: {report['seconds'] / 60:.0f} minutes of mixed load on the whole house"
            " with one real Triton on a CPU; of the last two thirds. Growth is an hour's, with its"
            " 99 % confidence interval; own memory is what is neither a file's nor shared. The"
            " scheduler's latest 4,000 decisions, 2.6 MiB of them, fill up meanwhile.",
            "",
            f"It did: {did}.",
            "",
            "| part | own memory, MiB | at the end | growth, MiB an hour | descriptors | growth an"
            " hour | threads | growth an hour | resident at the end, MiB |",
            "|---|---|---|---|---|---|---|---|---|",
            *(
                f"| {name} | {told['private']['first'] / MIB:.1f} |"
                f" {told['private']['last'] / MIB:.1f} | {_growth(told['private'], MIB)} |"
                f" {told['descriptors']['last']:.0f} | {_growth(told['descriptors'])} |"
                f" {told['threads']['last']:.0f} | {_growth(told['threads'])} |"
                f" {told['resident']['last'] / MIB:.1f} |"
                for name, told in parts
            ),
            "",
            f"Shared memory: {report['shared_memory']['last'] / MIB:.2f} MiB,"
            f" {_growth(report['shared_memory'], MIB)} MiB an hour.",
            "",
            "| table | rows | dead, at most | table, MiB | indexes, MiB | bytes a row | growth of"
            " that an hour |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {name} | {told['at the end']['rows']:.0f} | {told['most dead']:.0f} |"
                f" {told['at the end']['table'] / MIB:.1f} |"
                f" {told['at the end']['indexes'] / MIB:.1f} |"
                f" {told['bytes a row']['last']:.0f} | {_growth(told['bytes a row'])} |"
                for name, told in report["tables"].items()
            ),
            "",
            "| claim | | goal | holds |",
            "|---|---|---|---|",
            *(
                f"| {c['name']} | {c['value']} {c['unit']} | {c['goal']} |"
                f" {'yes' if c['holds'] else 'NO'} |"
                for c in report["claims"]
            ),
            "",
            "![memory](soak.svg)",
            "",
        ]
    )


def _growth(told: dict[str, float], unit: float = 1.0) -> str:
    low, value, high = (told[key] / unit for key in ("low", "hour", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    typer.run(main)
