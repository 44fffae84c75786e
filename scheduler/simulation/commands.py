"""Commands: simulate a scenario, make one, check what a simulation wrote."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from scheduler.runqueue import Late
from scheduler.simulation import baselines, report
from scheduler.simulation.families import FAMILIES, make
from scheduler.simulation.gentd26 import Options, gentd26
from scheduler.simulation.replay import violations
from scheduler.simulation.scenario import ScenarioError, read, write
from scheduler.simulation.simulate import Progress as Told
from scheduler.simulation.simulate import Simulation
from scheduler.simulation.world import Run, Scenario, Span

ALL = "all"
ALIASES = {
    "ours": baselines.OURS, "rr": "round-robin", "lq": "least-loaded", "least-estimated-work":
    "least-work", "hash": "consistent-hash", "power-of-two": "p2c",
}  # fmt: skip
PIPE_COLUMNS = 200
COLUMNS = (
    ("goodput", "weighted"), ("class 2", "in time / p99 s"), ("class 1", ""),
    ("class 0", ""), ("rejected", ""), ("unfinished", ""), ("busy", ""), ("stalled", ""),
    ("loads", "a 1000"), ("switches", "a 1000"), ("Jain", ""), ("decision", "p50 / p99 us"),
    ("decisions", "a second"),
)  # fmt: skip

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The scheduler under a virtual clock.",
)
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
ScenarioDir = Annotated[
    Path, typer.Argument(help="A folder of fleet.json, models.json, scenario.json, trace.csv.")
]


@app.command()
def simulate(
    scenario_dir: ScenarioDir,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help=f"One or more of {', '.join(baselines.NAMES)}; or {ALL}."),
    ] = None,
    late: Annotated[
        Late, typer.Option(help="What ours does with those that are late anyway.")
    ] = Late.CASCADE,
    seed: Annotated[int | None, typer.Option(help="Of policies that draw.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="An object a policy, only.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write what became of each request here.")
    ] = None,
) -> None:
    """Run the requests of SCENARIO_DIR through one policy or several."""
    names = _names([*(policy or []), *(more or [])])
    with _complaints():
        scenario = read(scenario_dir)
    seed = scenario.seed if seed is None else seed
    found = []
    for name in names:
        with _progress(name, quiet=as_json) as told:
            run, figures = one(
                scenario, name, late, seed, keep_timeline=out is not None, progress=told
            )
        if as_json:
            typer.echo(json.dumps(figures))
        if out is not None:
            record(run, figures, out)
        found.append(figures)
    if not as_json:
        console = Console()
        wide = console if console.is_terminal else Console(width=PIPE_COLUMNS)
        wide.print(table(scenario, found))


def one(
    scenario: Scenario,
    name: str,
    late: Late,
    seed: int,
    *,
    keep_timeline: bool = False,
    progress: Told | None = None,
) -> tuple[Run, dict[str, Any]]:
    """One run of one policy, timed, and its figures."""
    policy = baselines.policy(name, scenario.models, late, seed)
    began = time.perf_counter()
    run = Simulation(
        scenario, policy,
        clock=time.perf_counter, keep_timeline=keep_timeline, progress=progress,
    ).run()  # fmt: skip
    figures = report.figures(run, name, seed, time.perf_counter() - began)
    if name == baselines.OURS:
        figures["late"] = late.value
    return run, figures


def record(run: Run, figures: dict[str, Any], out: Path) -> None:
    """Write the figures, a line for each request, and the devices' timeline."""
    out.mkdir(parents=True, exist_ok=True)
    name = figures["policy"]
    (out / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    with (out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, report.CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(report.rows(run))
    with (out / f"{name}.timeline.jsonl").open("w") as file:
        file.writelines(json.dumps(span) + "\n" for span in run.timeline)


@app.command()
def check(
    scenario_dir: ScenarioDir,
    out: Annotated[Path, typer.Argument(help="What `simulate --out` wrote.")],
) -> None:
    """Compute the figures again from the requests, and check the rules on the timeline."""
    console, bad = Console(width=PIPE_COLUMNS), 0
    with _complaints():
        scenario = read(scenario_dir)
    for path in sorted(out.glob("*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        said = json.loads(path.with_suffix(".json").read_text())
        try:
            wrong = [
                f"{name} is {value}, not {said[name]}"
                for name, value in report.recompute(scenario, rows).items()
                if said[name] != value
            ]
        except ValueError as error:
            wrong = [str(error)]
        with path.with_suffix(".timeline.jsonl").open() as file:
            spans = [_span(json.loads(line)) for line in file]
        finished = [f"{int(row['id']):08d}" for row in rows if row["finish"]]
        wrong += violations(scenario, spans, finished)
        bad += len(wrong)
        console.print(f"{path.stem}: " + ("[red]wrong[/]" if wrong else "[green]ok[/]"))
        for line in wrong[:10]:
            console.print(f"  {escape(line)}")
    raise typer.Exit(1 if bad else 0)


@app.command("scenario")
def scenario_(
    name: Annotated[str, typer.Argument(help=f"gentd26, or {', '.join(FAMILIES)}.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="gentd26: its requests and its load times.")
    ] = None,
    out: OutOption = Path("scenario"),
    rho: Annotated[float, typer.Option(min=0.01, help="Load: work offered / capacity.")] = 0.8,
    seed: Annotated[int, typer.Option(help="The same seed, the same scenario.")] = 1,
    horizon: Annotated[
        float | None, typer.Option(min=1, help="Families: seconds, else the usual.")
    ] = None,
    load_factor: Annotated[float, typer.Option(min=0, help="gentd26: of the load times.")] = 1.0,
    devices: Annotated[int, typer.Option(min=1, help="gentd26.")] = 8,
    memory_gb: Annotated[float, typer.Option(min=1, help="gentd26: of each device.")] = 24.0,
    start: Annotated[int, typer.Option(min=0, help="gentd26: the first request.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="gentd26: requests.")] = 9000,
    host_memory_gb: Annotated[
        float, typer.Option(min=0, help="gentd26: of each node, for weights.")
    ] = 0.0,
    host_load_seconds: Annotated[
        float, typer.Option(min=0, help="gentd26: a load from there.")
    ] = 3.5,
    shared_gb: Annotated[
        float, typer.Option(min=0, max=7, help="gentd26: of the 7 GB, alike in all models.")
    ] = 0.0,
) -> None:
    """Make a scenario folder, from the GenTD26 trace or of a family."""
    with _complaints():
        if name == "gentd26":
            if files is None or len(files) != 2:
                raise ScenarioError("gentd26 wants two files: REQUESTS.csv LOADS.csv")
            options = Options(
                rho, load_factor, devices, memory_gb, start, count, seed,
                host_memory_gb, host_load_seconds, shared_gb,
            )  # fmt: skip
            made = gentd26(files[0], files[1], options)
        elif name in FAMILIES:
            made = make(name, rho, seed, horizon=horizon)
        else:
            raise ScenarioError(f"{name} is no family; gentd26 and {', '.join(FAMILIES)} are")
        write(made, out)
    Console(stderr=True).print(
        f"{out}: {len(made.requests)} requests in {made.horizon:.0f} s for {len(made.gpus)} devices"
        f" and {len(made.models)} models",
        highlight=False,
    )


def table(scenario: Scenario, found: list[dict[str, Any]]) -> Table:
    """A line for each policy."""
    drawn = Table(title=f"{scenario.name}: {len(scenario.requests)} requests", box=None)
    drawn.add_column("policy", no_wrap=True)
    for head, unit in COLUMNS:
        drawn.add_column(f"{head}\n[dim]{unit}[/]", justify="right", no_wrap=True)
    for f in found:
        classes = [f["classes"].get(level) for level in "210"]
        name = f["policy"] + (f" ({f['late']})" if "late" in f else "")
        drawn.add_row(
            name,
            f"{f['slo_goodput_weighted']:.3f}",
            *(f"{c['slo']:.3f} / {c['p99']:.1f}" if c else "-" for c in classes),
            str(sum(c["rejected"] for c in classes if c)),
            str(f["unfinished"]),
            f"{f['util']:.0%}",
            f"{f['stalled_share']:.0%}",
            f"{f['loads_per_1000']:.1f}",
            f"{f['switches_per_1000']:.0f}",
            f"{f['jain']:.3f}",
            f"{f['decision_us']['p50']:.0f} / {f['decision_us']['p99']:.0f}",
            f"{f['decisions_per_second']:,}",
        )
    return drawn


def _names(given: list[str]) -> list[str]:
    """Policies by their names or aliases, each once; ours where none is given."""
    names = [part for name in given for part in name.split(",") if part]
    if ALL in names:
        return list(baselines.NAMES)
    found = [ALIASES.get(name, name) for name in names] or [baselines.OURS]
    for name in found:
        if name not in baselines.NAMES:
            _fail(f"no policy is called {name}; there are {', '.join(baselines.NAMES)}")
    return list(dict.fromkeys(found))


def _span(raw: list[Any]) -> Span:
    span = Span(*raw)
    return span._replace(requests=tuple(span.requests), evicted=tuple(span.evicted))


@contextmanager
def _progress(name: str, *, quiet: bool) -> Iterator[Told | None]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda share: bar.update(task, completed=share)


@contextmanager
def _complaints() -> Iterator[None]:
    try:
        yield
    except ScenarioError as error:
        _fail(str(error))


def _fail(why: str) -> NoReturn:
    Console(stderr=True).print(f"[red]{escape(why)}[/]", soft_wrap=True, highlight=False)
    raise typer.Exit(2)
