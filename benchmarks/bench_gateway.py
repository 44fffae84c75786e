"""`make bench-gateway`: the speed of the door, beside the least that a server in Python can do.

A gateway, a scheduler and PostgreSQL, each a process as in production, and a bare grpc.aio echo of
the same message; no devices, so that what is submitted waits. All but the echo's calls show an API
key. Callers, house and echo share this machine's cores. Everything is measured in turns, several
times, and told by its median: others may use the machine meanwhile. What a call costs in processor
time, by process, does not depend on them.

Writes gateway.json, gateway.md and gateway.svg.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import plot
from benchmarks.claims import at, claim, table
from benchmarks.door_caller import Came, Job
from benchmarks.door_stack import Door, Stolen, call, cpu_seconds, resident_bytes, running

KINDS = ("echo", "submit", "get")
CALLERS = 128
WATCHERS, WATCHED, WATCH_SECONDS = 5_000, 500, 300.0
QUIET_ROUNDS = 3  # at half of the peak

console = Console(width=120)


@dataclass
class Measured:
    """One kind of call, over all rounds."""

    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)  # seconds
    p99: list[float] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)  # seconds a call, by process
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, came: Came, cpu: dict[str, float]) -> None:
        calls = max(1, len(came.waited))
        self.rates.append(came.rate)
        self.p50.append(at(came.waited, 0.5))
        self.p99.append(at(came.waited, 0.99))
        self.cpu.append({"caller": came.cpu} | {name: used / calls for name, used in cpu.items()})
        self.errors.update(came.errors)


@dataclass
class Watched:
    """What became of the watchers. Bytes are of one watcher."""

    ends: int
    views: int
    errors: dict[str, int]
    seconds: float  # from the first cancel to the last end
    bytes: dict[str, float]


def main(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    rounds: Annotated[int, typer.Option()] = 7,
    seconds: Annotated[float, typer.Option(help="Of each kind in each round.")] = 3.0,
) -> None:
    """Measure, and say what holds."""
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        report = asyncio.run(_run(Path(folder), rounds, seconds))
    out.mkdir(parents=True, exist_ok=True)
    (out / "gateway.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "gateway.md").write_text(_page(report))
    shares = {kind: report["of_the_echo"][kind] for kind in KINDS[1:]}
    plot.bars(
        out / "gateway.svg",
        "Of what the echo does (median of all rounds), by calls a second and by processor time",
        {
            kind: {"calls": share["rate"], "processor": share["cpu"]}
            for kind, share in shares.items()
        },
    )
    console.print((out / "gateway.md").read_text())


async def _run(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    measured = {kind: Measured() for kind in KINDS}
    loads, stolen = [], Stolen()
    async with running(folder / "state") as door:
        made = await call(
            Job("submit", door.gateway, 1.0, CALLERS, key=door.key)
        )  # the first of everything
        for _ in range(rounds):
            loads.append(os.getloadavg()[0])
            for kind, one in measured.items():
                address = door.echo if kind == "echo" else door.gateway
                job = Job(kind, address, seconds, CALLERS, ids=made.ids[:1000], key=door.key)
                await _measure(door, job, one)
        half = statistics.median(measured["submit"].rates) / 2
        quiet = Measured()
        for _ in range(QUIET_ROUNDS):
            job = Job("submit", door.gateway, seconds, rate=half, key=door.key)
            await _measure(door, job, quiet)
        watched = await _watched(door, made.ids[:WATCHED])
    return _report(measured, quiet, half, watched, loads, seconds, stolen.share())


async def _measure(door: Door, job: Job, measured: Measured) -> None:
    before = {name: cpu_seconds(pid) for name, pid in door.pids.items()}
    came = await call(job)
    used = {name: cpu_seconds(pid) - before[name] for name, pid in door.pids.items()}
    measured.add(came, used)


async def _watched(door: Door, ids: list[str]) -> Watched:
    """Cancel what they watch once all watch; each is to see how it stands, and the end."""
    rooms = ("gateway", "scheduler")
    before = {name: resident_bytes(door.pids[name]) for name in rooms}
    held: dict[str, float] = {}

    async def cancel() -> None:
        held.update(
            {name: (resident_bytes(door.pids[name]) - before[name]) / WATCHERS for name in rooms}
        )
        await call(Job("cancel", door.gateway, WATCH_SECONDS, ids=ids, key=door.key))

    watch = Job("watch", door.gateway, WATCH_SECONDS, WATCHERS, ids=ids, key=door.key)
    came = await call(watch, cancel)
    return Watched(came.ends, came.views, came.errors, came.waited[0], held)


def _report(
    measured: dict[str, Measured],
    quiet: Measured,
    half: float,
    watched: Watched,
    loads: list[float],
    seconds: float,
    stolen: float,
) -> dict[str, Any]:
    echo = measured["echo"]
    shares = {
        kind: {
            "rate": statistics.median(_each(one.rates, echo.rates)),
            "cpu": statistics.median(
                _each([_sum(cpu) for cpu in echo.cpu], [_sum(cpu) for cpu in one.cpu])
            ),
        }
        for kind, one in measured.items()
    }
    submit, calm = shares["submit"]["rate"], statistics.median(quiet.p99)
    delivered = watched.ends / WATCHERS
    errors = sum(sum(one.errors.values()) for one in (*measured.values(), quiet))
    return {
        "rounds": len(loads),
        "seconds": seconds,
        "callers": CALLERS,
        "cores": os.cpu_count(),
        "load": {"least": min(loads), "most": max(loads)},
        "stolen": stolen,
        "kinds": {kind: _told(one) for kind, one in measured.items()},
        "half_of_peak": {"rate": half, **_told(quiet)},
        "of_the_echo": shares,
        "watchers": {
            "number": WATCHERS,
            "views": watched.views,
            "ends": watched.ends,
            "errors": watched.errors,
            "seconds_to_the_last_end": watched.seconds,
            "bytes_each": watched.bytes,
        },
        "claims": [
            claim("durable submits, of the echo's rate", submit, "", 0.4, submit >= 0.4),
            claim("submit p99 at half of the peak", calm, "s", 0.05, calm <= 0.05),
            claim("watchers that saw the end", delivered, "", 1.0, delivered == 1.0),
            claim("calls that failed", errors, "", 0, errors == 0),
        ],
    }


def _told(one: Measured) -> dict[str, Any]:
    processes = one.cpu[0]
    return {
        "rate": statistics.median(one.rates),
        "rates": one.rates,
        "p50": statistics.median(one.p50),
        "p99": statistics.median(one.p99),
        "cpu": {name: statistics.median(cpu[name] for cpu in one.cpu) for name in processes},
        "errors": dict(one.errors),
    }


def _each(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round: what was beside each other is compared."""
    return [a / b for a, b in zip(over, under, strict=True)]


def _sum(cpu: dict[str, float]) -> float:
    return sum(cpu.values())


def _page(report: dict[str, Any]) -> str:
    processes = ("caller", "echo", "gateway", "scheduler", "postgres")
    half = report["half_of_peak"]
    rows = [
        f"| {name} | {one['rate']:,.0f} | {_share(report, name)} | {1e3 * one['p50']:.1f} |"
        f" {1e3 * one['p99']:.1f} | "
        + " | ".join(f"{1e6 * one['cpu'][process]:.0f}" for process in processes)
        + " |"
        for name, one in {**report["kinds"], "submit, half of the peak": half}.items()
    ]
    watchers = report["watchers"]
    kilobytes = {name: value / 1024 for name, value in watchers["bytes_each"].items()}
    load = report["load"]
    return "\n".join(
        [
            "# The speed of the door",
            "",
            f"{report['callers']} callers at a time, {report['rounds']} rounds of"
            f" {report['seconds']:g} s a kind, in turns, on {report['cores']} cores that callers,"
            f" house and echo share; medians. Load of the machine while it was measured:"
            f" {load['least']:.1f} to {load['most']:.1f}; {report['stolen']:.0%} of the processors"
            " went to others on its host.",
            "",
            "| call | a second | of the echo | p50 ms | p99 ms |"
            " processor µs a call: caller | echo | gateway | scheduler | PostgreSQL |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"{watchers['number']:,} watchers: {watchers['ends']:,} saw the end,"
            f" {watchers['views']:,} views in all, the last end"
            f" {watchers['seconds_to_the_last_end']:.1f} s after the first cancel;"
            f" {kilobytes['gateway']:.0f} KiB of the gateway's memory each,"
            f" {kilobytes['scheduler']:.0f} KiB of the scheduler's.",
            "",
            *table(report["claims"]),
            "",
            "![of the echo](gateway.svg)",
            "",
        ]
    )


def _share(report: dict[str, Any], kind: str) -> str:
    share = report["of_the_echo"].get(kind)
    return f"{share['rate']:.2f}" if share else ""


if __name__ == "__main__":
    typer.run(main)
