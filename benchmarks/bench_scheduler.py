"""`make bench-scheduler`: the policies side by side, what a decision costs, and the real trace.

Writes scheduler.json (every figure, and the claims with their goals), scheduler.md and plots. Made
scenarios of our own seeds by default; a folder of scenario folders (--scenarios) and the files of
GenTD26 (--trace) are brought by the user.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import decision_cost, plot
from scheduler.runqueue import Late
from scheduler.simulation.baselines import BASELINES, OURS
from scheduler.simulation.commands import one, table
from scheduler.simulation.families import make
from scheduler.simulation.gentd26 import Options, gentd26
from scheduler.simulation.scenario import read
from scheduler.simulation.world import Scenario

SEED = 11
MADE = (("hot1", 1.2), ("zipf40", 0.8), ("zipf40", 1.0), ("burst", 0.8), ("diurnal", 0.8),
        ("imgvid", 0.8), ("flood", 1.0), ("gang", 0.8), ("fail", 0.8), ("thrash", 0.8),
        ("scale100", 0.8))  # fmt: skip
# Weighted goodput asked for on scenarios that are exchanged between implementations.
GOALS = {
    "burst-0.8-s1": (0.897, 0.951), "diurnal-0.8-s1": (0.955, 0.977), "fail-0.8-s1": (0.931, 0.985),
    "flood-1.0-s1": (0.739, 0.812), "gang-0.8-s1": (0.973, 0.990), "hot1-1.2-s1": (0.918, 0.990),
    "imgvid-0.8-s1": (0.964, 0.990), "thrash-0.8-s1": (0.535, 0.562),
    "zipf40-0.8-s1": (0.950, 0.990), "zipf40-1.0-s1": (0.941, 0.987),
}  # fmt: skip
REQUESTS, LOADS = "gentd26_requests.csv", "gentd26_base_model_load_ms.csv"
# (GB, load factor, rho): what rejecting and finishing all should reach on the first piece.
PIECE: dict[tuple[float, float, float], tuple[float, float]] = {
    (24, 1.0, 0.5): (0.688, 0.650), (24, 1.0, 0.7): (0.633, 0.558), (24, 1.0, 0.9): (0.569, 0.417),
    (24, 0.2, 0.5): (0.800, 0.766), (24, 0.2, 0.7): (0.724, 0.675), (24, 0.2, 0.9): (0.657, 0.528),
    (48, 1.0, 0.5): (0.804, 0.775), (48, 1.0, 0.7): (0.740, 0.704), (48, 1.0, 0.9): (0.682, 0.604),
    (48, 0.2, 0.5): (0.869, 0.851), (48, 0.2, 0.7): (0.808, 0.781), (48, 0.2, 0.9): (0.744, 0.665),
}  # fmt: skip
OVER_CLOCKWORK = 0.05
LATER = (9_000, 17_823)  # pieces of the trace that nothing was tuned on
FEW = ((24, 1.0, 0.5), (24, 0.2, 0.7), (48, 1.0, 0.7))
HOST_GB, SHARED_GB = 256.0, 1.9
# Mean of FEW, rejecting: what the machine should be worth, by host memory and shared parts.
TIERS = {(0.0, 0.0): 0.718, (HOST_GB, 0.0): 0.791, (0.0, SHARED_GB): 0.761,
         (HOST_GB, SHARED_GB): 0.856}  # fmt: skip
LARGE = 1_000, 100_000, 600.0  # devices, requests, and seconds that a run may take

console = Console(width=200)
Found = list[dict[str, Any]]


class Results:
    """Figures and claims, on disk after each part: a run that is cut short is not lost."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.claims: list[dict[str, Any]] = []
        self.parts: dict[str, Any] = {}

    def claim(self, name: str, value: float, unit: str, goal: float, *, least: bool = True) -> None:
        holds = value >= goal if least else value <= goal
        said = f"{'>=' if least else '<='} {goal:g}"
        self.claims.append(
            {"name": name, "value": round(value, 4), "unit": unit, "goal": said, "holds": holds}
        )
        mark = "[green]holds[/]" if holds else "[red]does not hold[/]"
        console.print(f"{name}: {value:.4g} {unit}, goal {said}: {mark}", highlight=False)

    def save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        content = {"claims": self.claims, **self.parts}
        (self.out / "scheduler.json").write_text(json.dumps(content, indent=1) + "\n")
        (self.out / "scheduler.md").write_text(_markdown(self))


def main(
    scenarios: Annotated[Path | None, typer.Option(envvar="SCENARIOS")] = None,
    trace: Annotated[Path | None, typer.Option(envvar="GENTD26", help="Its folder.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    seed: int = SEED,
    quick: Annotated[bool, typer.Option(help="Costs and one scenario only.")] = False,
) -> None:
    """Measure everything, and say what holds."""
    results = Results(out)
    costs(results)
    compare(results, _scenarios(scenarios, seed, quick=quick))
    if not quick:
        large(results, seed)
        if trace is None or not all((trace / name).exists() for name in (REQUESTS, LOADS)):
            console.print("[yellow]GenTD26 is skipped: its files are not there (--trace DIR)[/]")
        else:
            real_trace(results, trace)
            tiers(results, trace)
    results.save()
    broken = [claim for claim in results.claims if not claim["holds"]]
    console.print(f"{len(results.claims) - len(broken)} of {len(results.claims)} claims hold")


def costs(results: Results) -> None:
    """What decisions cost, and how that grows."""
    by_devices = {n: decision_cost.of_calls(n, max(20, n // 5), 10_000) for n in (16, 100, 1000)}
    by_queue = {n: decision_cost.of_calls(16, 20, n) for n in (100, 1_000, 10_000, 100_000)}
    tick = decision_cost.of_ticks(1000, 200, 10_000)
    results.parts["costs"] = {"by_devices": by_devices, "by_queue": by_queue, "tick_ms": tick}
    for devices, goal in ((16, 25.0), (1000, 50.0)):
        for call in ("submit", "boundary"):
            name = f"{call}, median, {devices} devices, 10,000 queued"
            results.claim(name, by_devices[devices][f"{call}_p50"], "us", goal, least=False)
    results.claim("tick, median, 1,000 devices, 200 models", tick["p50"], "ms", 20.0, least=False)
    results.out.mkdir(parents=True, exist_ok=True)
    for name, label, measured in (
        ("devices", "devices, 10,000 queued", by_devices), ("queue", "queued, 16 devices", by_queue)
    ):  # fmt: skip
        series = {
            call: [(n, found[f"{call}_p50"]) for n, found in measured.items()]
            for call in ("submit", "boundary")
        }
        plot.lines(results.out / f"scheduler-cost-{name}.svg", "A decision", label, series)
    results.save()


def compare(results: Results, scenarios: Iterator[Scenario]) -> None:
    """Ours in each mode, and every baseline, on each scenario."""
    groups: dict[str, dict[str, float]] = {}
    kept = results.parts.setdefault("scenarios", {})
    for scenario in scenarios:
        found = _all_policies(scenario)
        console.print(table(scenario, found))
        kept[scenario.name] = found
        groups[scenario.name] = {_label(f): f["slo_goodput_weighted"] for f in found}
        ours = groups[scenario.name][f"{OURS} {Late.CASCADE}"]  # the default, not the best of three
        rivals = max(f["slo_goodput_weighted"] for f in found if f["policy"] != OURS)
        name = f"{scenario.name}, cascade"
        if scenario.name in GOALS:
            must, target = GOALS[scenario.name]
            results.claim(f"{name}, must", ours, "goodput", must)
            results.claim(f"{name}, target", ours, "goodput", target)
        elif not scenario.name.startswith("flood"):  # there, fairness costs goodput on purpose
            results.claim(f"{name}, best baseline", ours, "goodput", rivals)
        plot.bars(results.out / "scheduler-goodput.svg", "Weighted goodput", groups)
        results.save()


def large(results: Results, seed: int) -> None:
    """A fleet of a thousand."""
    devices, requests, seconds = LARGE
    full = make("scale1000", 0.8, seed)
    scenario = make("scale1000", 0.8, seed, horizon=full.horizon * requests / len(full.requests))
    began = time.perf_counter()
    _, figures = one(scenario, OURS, Late.CASCADE, seed)
    took = time.perf_counter() - began
    results.parts["large"] = {**figures, "wall_seconds": took, "requests": len(scenario.requests)}
    name = f"{devices} devices, {len(scenario.requests)} requests"
    results.claim(f"{name}, wall time", took, "s", seconds, least=False)
    results.claim(f"{name}, goodput", figures["slo_goodput_weighted"], "goodput", 0.95)
    results.save()


def real_trace(results: Results, folder: Path) -> None:
    """GenTD26, in every row of the study that this policy should beat, and on later pieces."""
    rivals = ("clockwork", "ect", "modelmesh", "least-loaded")
    kept = results.parts.setdefault("gentd26", {})
    rows = [(*row, 0) for row in PIECE] + [(*row, start) for start in LATER for row in FEW]
    for memory, factor, rho, start in rows:
        options = Options(rho, factor, 8, memory, start=start)
        scenario = gentd26(folder / REQUESTS, folder / LOADS, options)
        found = _all_policies(scenario, rivals)
        console.print(table(scenario, found))
        kept[scenario.name] = found
        goodput = {_label(f): f["slo_goodput_weighted"] for f in found}
        reject = goodput[f"{OURS} reject"]
        finish = max(goodput[f"{OURS} cascade"], goodput[f"{OURS} doom"])
        if start == 0:
            wanted, wanted_finish = PIECE[memory, factor, rho]
            results.claim(f"{scenario.name}, rejecting", reject, "goodput", wanted)
            name = f"{scenario.name}, finishing all, better rule"
            results.claim(name, finish, "goodput", wanted_finish)
        clockwork = goodput["clockwork"] + OVER_CLOCKWORK
        results.claim(f"{scenario.name}, Clockwork-like + 0.05", reject, "goodput", clockwork)
        results.save()


def tiers(results: Results, folder: Path) -> None:
    """What host memory and shared parts are worth, to ours and to the strongest baseline."""
    kept = results.parts.setdefault("tiers", {})
    for (host, shared), goal in TIERS.items():
        ours, theirs = [], []
        for memory, factor, rho in FEW:
            options = Options(rho, factor, 8, memory, host_memory_gb=host, shared_gb=shared)
            scenario = gentd26(folder / REQUESTS, folder / LOADS, options)
            ours.append(one(scenario, OURS, Late.REJECT, scenario.seed)[1])
            theirs.append(one(scenario, "clockwork", Late.CASCADE, scenario.seed)[1])
        name = f"GenTD26, {host:g} GB of host memory, {shared:g} of 7 GB shared"
        kept[name] = {"atelier": ours, "clockwork": theirs}
        mean = sum(f["slo_goodput_weighted"] for f in ours) / len(ours)
        results.claim(f"{name}, mean of three, rejecting", mean, "goodput", goal)
        results.save()


def _all_policies(scenario: Scenario, rivals: tuple[str, ...] = tuple(BASELINES)) -> Found:
    found = [one(scenario, OURS, late, scenario.seed)[1] for late in Late]
    return [*found, *(one(scenario, name, Late.CASCADE, scenario.seed)[1] for name in rivals)]


def _scenarios(folder: Path | None, seed: int, *, quick: bool) -> Iterator[Scenario]:
    if quick:
        yield make("zipf40", 0.8, seed)
    elif folder is not None:
        yield from map(read, sorted(path.parent for path in folder.glob("*/scenario.json")))
    else:
        yield from (make(name, rho, seed) for name, rho in MADE)


def _label(figures: dict[str, Any]) -> str:
    return f"{figures['policy']} {figures.get('late', '')}".strip()


def _markdown(results: Results) -> str:
    lines = ["# The scheduler, measured", "", "| claim | value | unit | goal | holds |"]
    lines.append("|---|---|---|---|---|")
    for c in results.claims:
        holds = "yes" if c["holds"] else "**no**"
        lines.append(f"| {c['name']} | {c['value']:g} | {c['unit']} | {c['goal']} | {holds} |")
    for part in ("scenarios", "gentd26"):
        kept: dict[str, Found] = results.parts.get(part, {})
        if not kept:
            continue
        names = [_label(f) for f in next(iter(kept.values()))]
        lines += ["", f"Weighted goodput ({part}):", "", f"| | {' | '.join(names)} |"]
        lines.append("|---" * (len(names) + 1) + "|")
        for name, found in kept.items():
            cells = (f"{f['slo_goodput_weighted']:.3f}" for f in found)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if kept_tiers := results.parts.get("tiers"):
        lines += ["", "Weighted goodput and loads a 1000, mean of three rows (rejecting):", ""]
        lines += ["| | atelier | loads | clockwork-like | loads |", "|---|---|---|---|---|"]
        for name, by_policy in kept_tiers.items():
            cells = (
                f"{sum(f[key] for f in found) / len(found):.{digits}f}"
                for found in by_policy.values()
                for key, digits in (("slo_goodput_weighted", 3), ("loads_per_1000", 0))
            )
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
