"""`make bench-pauses`: Python's collector in a scheduler with 10,000 queued generations.

Three ways side by side, each in processes of its own (pauses_under_load.py): as Python comes; what
is there at the start frozen, as is usually advised; and as the scheduler does it
(atelier/pauses.py). Writes pauses.json, pauses.md and pauses.svg.

The machine may be shared: how many objects a collection looks at does not depend on that, and
seconds are the least of several runs' longest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import plot

WAYS: dict[str, dict[str, bool]] = {
    "as Python comes": {},
    "frozen at the start": {"frozen": True},
    "as the scheduler does": {"ours": True},
}
OURS, PYTHONS = "as the scheduler does", "as Python comes"
LONGEST_MS = 5.0  # of a pause: two hundred decisions
OVERHEAD = 0.02  # of the CPU time

console = Console(width=160)
Row = dict[str, float]


def main(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    runs: Annotated[int, typer.Option(help="Timed ones, of each way.")] = 2,
) -> None:
    """Measure every way, and say what holds."""
    load = os.getloadavg()[0]
    rows = {name: _row(name, way, runs) for name, way in WAYS.items()}
    claims = [
        _claim("longest pause, ours", rows[OURS]["longest_ms"], "ms", LONGEST_MS),
        _claim("a full collection at any time, ours", rows[OURS]["full_ms"], "ms", LONGEST_MS),
        _claim(
            "objects that a collection looks at, ours, of Python's",
            rows[OURS]["most_objects"] / rows[PYTHONS]["full_objects"], "ratio", 0.25,
        ),
        _claim("CPU time that collections take, ours", rows[OURS]["share"], "ratio", OVERHEAD),
    ]  # fmt: skip
    machine = {
        "cores": os.cpu_count(),
        "load_average_before": round(load, 2),
        "load_average_after": round(os.getloadavg()[0], 2),
    }
    content = {"claims": claims, "machine": machine, "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    (out / "pauses.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "pauses.md").write_text(_markdown(claims, rows, machine))
    worst = max(row["full_objects"] for row in rows.values())
    plot.bars(
        out / "pauses.svg", f"Objects looked at, as a share of {worst:,.0f}",
        {
            "the most of any collection": {n: r["most_objects"] / worst for n, r in rows.items()},
            "a full one at the end": {n: r["full_objects"] / worst for n, r in rows.items()},
        },
    )  # fmt: skip


def _row(name: str, way: dict[str, bool], runs: int) -> Row:
    counted = _run({"name": name, **way, "count": True})
    timed = [_run({"name": name, **way}) for _ in range(runs)]
    return {
        "queued": counted["queued"],
        "collections": len(counted["pauses"]),
        "most_objects": max(pause["objects"] for pause in counted["pauses"]),
        "full_objects": counted["forced_full"]["objects"],
        "frozen_objects": counted["frozen_objects"],
        "longest_ms": min(max(p["cpu_ms"] for p in run["pauses"]) for run in timed),
        "longest_wall_ms": min(max(p["wall_ms"] for p in run["pauses"]) for run in timed),
        "full_ms": min(run["forced_full"]["cpu_ms"] for run in timed),
        "share": min(
            sum(p["cpu_ms"] for p in run["pauses"]) / run["cpu_seconds"] / 1e3 for run in timed
        ),
    }


def _run(way: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pauses_under_load", json.dumps(way)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _claim(name: str, value: float, unit: str, goal: float) -> dict[str, Any]:
    holds = value <= goal
    mark = "[green]holds[/]" if holds else "[red]does not hold[/]"
    console.print(f"{name}: {value:.3g} {unit}, goal <= {goal:g}: {mark}")
    return {"name": name, "value": round(value, 4), "unit": unit, "goal": f"<= {goal:g}",
            "holds": holds}  # fmt: skip


def _markdown(
    claims: list[dict[str, Any]], rows: dict[str, Row], machine: dict[str, float | int | None]
) -> str:
    lines = [
        "# The collector's pauses", "",
        "A Live and a Sched with 10,000 queued generations: filled at 3,000 a second, churned at"
        " 500, half drained and filled again at 1,000. Milliseconds are CPU time, the least of"
        f" several runs' longest; {machine['cores']} cores, load average"
        f" {machine['load_average_before']} before and {machine['load_average_after']} after.", "",
        "| claim | value | goal | holds |", "|---|---|---|---|",
        *(f"| {c['name']} | {c['value']:g} {c['unit']} | {c['goal']} | "
          f"{'yes' if c['holds'] else '**no**'} |" for c in claims), "",
        f"| | {' | '.join(rows)} |", "|---" * (len(rows) + 1) + "|",
    ]  # fmt: skip
    first = next(iter(rows.values()))
    for key in first:
        form = ",.3g" if key.endswith(("ms", "share")) else ",.0f"
        cells = " | ".join(format(row[key], form) for row in rows.values())
        lines.append(f"| {key.replace('_', ' ')} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
