"""`make bench-devices`: what the real house gets out of eight devices, beside the simulator.

Eight Tritons whose models sleep as long as a profile says, and everything else real: gateway,
scheduler, agent, PostgreSQL, S3, loads, uploads. A trace goes through the front door by the clock;
the simulator predicts the same trace on the same fleet, with the same core. What is missing from
its prediction is the house's own doing, and device_time.py says where it went.

Two traces: one that keeps the devices busy, and one that is more than they can do, so that nothing
lost is made good in an idle moment. Steps are ten times as long as an SD-like model's on a GPU,
because the whole house and eight Tritons share this machine's cores: so the machine's load stands
beside every figure.

Writes devices.json, devices.md and devices.svg.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.console import Console

from atelier.catalog import Catalog
from atelier.embedded.stack import StackOptions
from benchmarks import plot
from benchmarks.device_time import Done, account, of_simulation
from benchmarks.sleeping_repository import SHAPE, Sleeper, write_repository
from benchmarks.sleeping_stack import Drive, drive, running, twice
from scheduler.model import model_of
from scheduler.runqueue import WEIGHTS, Ticket, objective
from scheduler.sched import Sched
from scheduler.simulation.simulate import Simulation
from scheduler.simulation.world import Gpu, Scenario

GOAL = 0.95
DEVICES, DEVICE_BYTES = 8, 10_000_000_000
MODELS = 6  # two fit on a device
SLEEPER = Sleeper(
    "", resident_bytes=3_600_000_000, activation_bytes=400_000_000, load_seconds=6.0,
    step_a=0.055, step_c=0.065, batch_cap=4,
)  # fmt: skip
HORIZON, SEED = 150.0, 5  # seconds
TRACES = {"busy": 1.0, "saturated": 1.4}  # offered work over the fleet's
STEPS = {8: 0.25, 12: 0.25, 20: 0.3, 30: 0.2}
CLASSES = (0.2, 0.5, 0.3)  # shares of class 0, 1, 2
SHAKEN, SHAKE_SECONDS = 20, 0.02  # simulations whose arrivals are shaken: how firm is a figure?
PLACES = ("useful", "slow", "between", "turnaround", "loading", "around", "idle")

console = Console(width=160)
Row = dict[str, Any]


def main(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    runs: Annotated[int, typer.Option(help="Of the real thing; each on a fresh stack.")] = 2,
    seconds: Annotated[float, typer.Option(help="Of arrivals.")] = HORIZON,
    keep: Annotated[Path | None, typer.Option(help="Run in this folder, and leave it.")] = None,
) -> None:
    """Run the traces through the simulator and through the house; say what holds."""
    folder = keep or Path(tempfile.mkdtemp(prefix="bench-devices-"))
    try:
        repository = folder / "repository"
        write_repository(repository, [replace(SLEEPER, name=f"sleeper-{i}") for i in range(MODELS)])
        rows: dict[str, Row] = {}
        claims: list[Row] = []
        spread: dict[str, Row] = {}
        for name, rho in TRACES.items():
            trace = scenario(repository, seconds, rho)
            predicted = rows[f"{name}, simulated"] = _of_simulation(trace)
            spread[name] = _spread(trace)
            for i in range(1, runs + 1):
                said = f"{name}, run {i}"
                found = _of_run(folder / f"{name}-{i}", repository, trace)
                rows[said] = found
                claims += _claims(said, found, predicted)
                _save(out, seconds, rows, claims, spread)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def scenario(repository: Path, horizon: float, rho: float) -> Scenario:
    """The trace: Poisson arrivals, Zipf's popularity that moves on at half time; a fixed seed."""
    rng = Random(SEED)
    models = {card.name: model_of(card) for card in Catalog.read(repository).cards.values()}
    names = list(models)
    mean = sum(share * models[names[0]].shapes[SHAPE].work(n) for n, share in STEPS.items())
    weights = [1 / (rank + 1) for rank in range(len(names))]
    requests: list[Ticket] = []
    at = rng.expovariate(rho * DEVICES / mean)
    while at < horizon:
        ranked = names if at < horizon / 2 else names[::-1]
        model = rng.choices(ranked, weights)[0]
        steps = rng.choices(list(STEPS), list(STEPS.values()))[0]
        level = rng.choices((0, 1, 2), CLASSES)[0]
        slo = objective(level, models[model].shapes[SHAPE].work(steps))
        name = f"{len(requests):08d}"
        requests.append(Ticket(name, "local", model, SHAPE, 1, steps, level, at, slo=slo))
        at += rng.expovariate(rho * DEVICES / mean)
    gpus = tuple(Gpu(f"cpu-{i}", "node", DEVICE_BYTES, 1.0) for i in range(DEVICES))
    return Scenario("sleeping", horizon, 0.0, gpus, models, tuple(requests), seed=SEED, rho=rho)


def _of_simulation(trace: Scenario) -> Row:
    """What the core makes of it under a virtual clock, as live."""
    run = Simulation(trace, Sched(trace.models), keep_timeline=True).run()
    finished = {int(o.ticket.id): o.finish for o in run.outcomes.values() if o.finish >= 0}
    return _figures(trace, of_simulation(run.timeline), finished)


def _spread(trace: Scenario) -> Row:
    """(Least, most) of what the simulator makes of nearly the same arrivals."""
    found = []
    for seed in range(SHAKEN):
        rng = Random(seed)
        late = (replace(t, submitted=t.submitted + rng.uniform(0, SHAKE_SECONDS))
                for t in trace.requests)  # fmt: skip
        found.append(
            _of_simulation(replace(trace, requests=tuple(sorted(late, key=lambda t: t.submitted))))
        )
    return {
        key: (min(row[key] for row in found), max(row[key] for row in found))
        for key in ("useful", "row_steps", "goodput_weighted", "loads")
    }


def _of_run(folder: Path, repository: Path, trace: Scenario) -> Row:
    """The same figures of the real thing, and how the machine was meanwhile."""
    options = StackOptions(DEVICES, DEVICE_BYTES, repository=repository)

    async def run() -> tuple[Drive, dict[str, Any]]:
        async with running(folder, options) as gateway:
            before = _machine()
            driven = await drive(gateway, folder, trace.requests)
            return driven, _machine_since(before)

    driven, machine = asyncio.run(run())
    finished = {e.number: e.finished for e in driven.ended if e.succeeded}
    return {
        **_figures(trace, driven.done, finished),
        "failed": sum(not e.succeeded for e in driven.ended),
        "attempts": sum(e.attempts for e in driven.ended),
        "not_once": len(twice(driven.done, trace.requests)),
        "latest_submit_seconds": round(driven.late_submits, 3),
        "machine": machine,
    }


def _figures(trace: Scenario, done: list[Done], finished: dict[int, float]) -> Row:
    submitted = {int(t.id): t.submitted for t in trace.requests}
    spent = account(done, [gpu.id for gpu in trace.gpus], submitted, trace.horizon)
    all_of_it = len(trace.gpus) * trace.horizon
    weights = {int(t.id): WEIGHTS[t.level] for t in trace.requests}
    good = sum(
        weights[int(t.id)]
        for t in trace.requests
        if finished.get(int(t.id), 1e9) <= t.submitted + t.slo
    )
    loads = [d for d in done if d.kind == "load" and d.began < trace.horizon]
    return {
        **{place: round(spent[place], 2) for place in PLACES},
        "useful_share": round(spent["useful"] / all_of_it, 4),
        "row_steps": round(spent["row_steps"], 1),
        "goodput_weighted": round(good / sum(weights.values()), 4),
        "finished": sum(at <= trace.horizon for at in finished.values()),
        "last_finish": round(max(finished.values()), 2),
        "between_steps_ms": round(1e3 * spent["between"] / max(1.0, spent["gaps"]), 2),
        "loads": len(loads),
        "load_seconds_mean": round(sum(d.ended - d.began for d in loads) / max(1, len(loads)), 2),
    }


def _claims(name: str, found: Row, predicted: Row) -> list[Row]:
    claims = []
    for what, value, goal, unit in (
        ("useful device time, of the prediction", found["useful"] / predicted["useful"], GOAL,
         "ratio"),
        ("pictures' steps done, of the prediction", found["row_steps"] / predicted["row_steps"],
         GOAL, "ratio"),
    ):  # fmt: skip
        claims.append(
            {"name": f"{name}: {what}", "value": round(value, 4), "unit": unit,
             "goal": f">= {goal:g}", "holds": value >= goal}
        )  # fmt: skip
    faults = found["failed"] + found["not_once"]
    claims.append(
        {"name": f"{name}: requests that failed, or had a step too few or too many",
         "value": faults, "unit": "requests", "goal": "<= 0", "holds": faults == 0}
    )  # fmt: skip
    for claim in claims:
        mark = "[green]holds[/]" if claim["holds"] else "[red]does not hold[/]"
        console.print(f"{claim['name']}: {claim['value']}, goal {claim['goal']}: {mark}")
    return claims


def _save(
    out: Path, horizon: float, rows: dict[str, Row], claims: list[Row], spread: dict[str, Row]
) -> None:
    about = {
        "devices": DEVICES, "models": MODELS, "horizon_seconds": horizon, "rho": TRACES,
        "seed": SEED, "sleeper": vars(SLEEPER),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    content = {"claims": claims, "trace": about, "rows": rows, "spread": spread}
    (out / "devices.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "devices.md").write_text(_markdown(horizon, rows, claims, spread))
    span = DEVICES * horizon
    plot.bars(
        out / "devices.svg", "Share of device time until the arrivals end",
        {name: {place: row[place] / span for place in PLACES} for name, row in rows.items()},
    )  # fmt: skip


def _markdown(
    horizon: float, rows: dict[str, Row], claims: list[Row], spread: dict[str, Row]
) -> str:
    me = SLEEPER
    lines = [
        "# The house beside its simulator", "",
        f"{horizon:g} s of arrivals for {MODELS} models on {DEVICES} devices that sleep (two models"
        f" fit on one). A step of n rows takes {me.step_a:g} + {me.step_c:g} n seconds, a decode"
        f" {me.step_c:g}, a load {me.load_seconds:g}. No GPU: what is measured is the house around"
        " the devices.", "",
        "| claim | value | goal | holds |", "|---|---|---|---|",
        *(f"| {c['name']} | {c['value']:g} {c['unit']} | {c['goal']} | "
          f"{'yes' if c['holds'] else '**no**'} |" for c in claims), "",
        "Device seconds until the arrivals end by where they went, and what came of them:", "",
        f"| | {' | '.join(rows)} |", "|---" * (len(rows) + 1) + "|",
    ]  # fmt: skip
    keys = dict.fromkeys(key for row in rows.values() for key in row if key != "machine")
    for key in keys:
        cells = " | ".join(f"{row[key]:g}" if key in row else "" for row in rows.values())
        lines.append(f"| {key.replace('_', ' ')} | {cells} |")
    lines.append("")
    for name, row in spread.items():
        said = ", ".join(f"{k.replace('_', ' ')} {v[0]:g} to {v[1]:g}" for k, v in row.items())
        lines.append(
            f"- {name}, {SHAKEN} simulations with arrivals up to {1e3 * SHAKE_SECONDS:g} ms later:"
            f" {said}"
        )
    for name, row in rows.items():
        if "machine" in row:
            said = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in row["machine"].items())
            lines.append(f"- {name}: {said}")
    return "\n".join(lines) + "\n"


def _machine() -> tuple[float, list[int], tuple[float, float, float]]:
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return time.monotonic(), [int(n) for n in ticks], os.getloadavg()


def _machine_since(before: tuple[float, list[int], tuple[float, float, float]]) -> dict[str, Any]:
    """How busy all cores were, with whatever else ran on them."""
    began, ticks, load = before
    now, later, load_now = _machine()
    spent = [b - a for a, b in zip(ticks, later, strict=True)]
    idle = spent[3] + spent[4]
    return {
        "cores": os.cpu_count(),
        "busy_share": round(1 - idle / max(1, sum(spent[:8])), 3),
        "load_average_before": round(load[0], 2),
        "load_average_after": round(load_now[0], 2),
        "seconds": round(now - began, 1),
    }


if __name__ == "__main__":
    typer.run(main)
