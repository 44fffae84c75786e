"""The figures: what they count, and that they follow from what is written down."""

import itertools
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scheduler.model import Model, Shape
from scheduler.runqueue import Late, Ticket
from scheduler.simulation.commands import app, baselines, report
from scheduler.simulation.scenario import write
from scheduler.simulation.simulate import Simulation
from scheduler.simulation.world import Gpu, Outcome, Run, Scenario
from tests.support.scenarios import small

MODELS = {"m": Model("m", 1e9, 1.0, {"s": Shape(0.0, 0.1, 0.0, 1e9, 1)})}


def ticket(i: int, level: int, t: float, tenant: str = "t") -> Ticket:
    return Ticket(f"{i:08d}", tenant, "m", "s", 1, 10, level, t, slo=5.0)


def told(*outcomes: Outcome, horizon: float = 100.0, warmup: float = 10.0) -> Run:
    requests = tuple(o.ticket for o in outcomes)
    gpus = (Gpu("0", "n", 10e9, 1.0),)
    scenario = Scenario("told", horizon, warmup, gpus, MODELS, requests)
    return Run(scenario, {o.ticket.id: o for o in outcomes})


def test_goodput_counts_who_is_in_time_by_class_and_after_the_warm_up() -> None:
    run = told(
        Outcome(ticket(0, 2, 5.0), 5.0, 99.0),  # in the warm-up
        Outcome(ticket(1, 2, 20.0), 20.0, 25.0),
        Outcome(ticket(2, 2, 20.0), 20.0, 25.1),
        Outcome(ticket(3, 1, 20.0), rejected=True),
        Outcome(ticket(4, 0, 20.0)),  # never ended
    )
    figures = report.figures(run, "p", 1)
    assert figures["slo_goodput"] == 0.25
    assert pytest.approx(4 / 11, abs=1e-4) == figures["slo_goodput_weighted"]
    assert figures["unfinished"] == 1
    assert figures["classes"]["1"] == {
        "n": 1,
        "slo": 0.0,
        "p50": 0.0,
        "p99": 0.0,
        "p999": 0.0,
        "rejected": 1,
    }
    assert figures["classes"]["0"]["p99"] == 100 + 900 - 20


def test_fairness_is_what_tenants_got_of_what_they_are_entitled_to() -> None:
    def shares(got: dict[str, int]) -> float:
        """Of 10 requests (a second each) that each of the tenants asked for."""
        numbers = itertools.count()
        outcomes = [
            Outcome(ticket(next(numbers), 1, 20.0, tenant), 20.0, 24.0 if i < n else 40.0)
            for tenant, n in got.items()
            for i in range(10)
        ]
        found = report.figures(told(*outcomes), "p", 1)["jain"]
        assert isinstance(found, float)
        return found

    assert shares({"a": 10, "b": 10}) == 1.0
    assert shares({"a": 5, "b": 5}) == 1.0
    assert shares({"a": 10, "b": 0}) == 0.5


@pytest.mark.parametrize("policy", [baselines.OURS, "clockwork"])
def test_the_rows_recompute_the_figures(policy: str) -> None:
    scenario = small("zipf40", rho=1.2)
    run = Simulation(scenario, baselines.policy(policy, scenario.models, Late.REJECT)).run()
    figures = report.figures(run, policy, 1)
    for name, value in report.recompute(scenario, report.rows(run)).items():
        assert value == figures[name], name


def test_rows_that_are_lost_or_twice_are_refused() -> None:
    scenario = small("hot1")
    rows = report.rows(Simulation(scenario, Late.CASCADE).run())
    with pytest.raises(ValueError, match="1 requests are lost"):
        report.recompute(scenario, rows[1:])
    with pytest.raises(ValueError, match="twice"):
        report.recompute(scenario, [rows[0], *rows])


# The commands.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(small("zipf40"), tmp_path / "zipf40")
    return tmp_path / "zipf40"


def test_json_is_an_object_a_policy_and_nothing_else(folder: Path) -> None:
    told = CliRunner().invoke(
        app, ["simulate", str(folder), "--json", "--policy", "ours", "ect", "--late", "reject"]
    )
    assert told.exit_code == 0
    found = [json.loads(line) for line in told.stdout.splitlines()]
    assert [f["policy"] for f in found] == ["atelier", "ect"]
    assert {"scenario", "seed", "util", "slo_goodput", "slo_goodput_weighted", "classes", "jain",
            "loads_per_1000", "unfinished", "decision_us"} <= set(found[0])  # fmt: skip


def test_what_is_written_is_checked(folder: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "out", CliRunner().invoke
    assert run(app, ["simulate", str(folder), "--policy", "all", "-o", str(out)]).exit_code == 0
    checked = run(app, ["check", str(folder), str(out)])
    assert (0, len(baselines.NAMES)) == (checked.exit_code, checked.stdout.count("ok"))
    table = (out / "ect.csv").read_text().splitlines()
    table[-1] = table[-1].replace(table[-1].split(",")[2], "9999.0")
    (out / "ect.csv").write_text("\n".join(table) + "\n")
    assert run(app, ["check", str(folder), str(out)]).exit_code == 1


def test_a_scenario_is_made_and_named(tmp_path: Path) -> None:
    words = ["scenario", "thrash", "--rho", "0.6", "--seed", "7", "--horizon", "30"]
    assert CliRunner().invoke(app, [*words, "-o", str(tmp_path / "made")]).exit_code == 0
    assert json.loads((tmp_path / "made" / "scenario.json").read_text())["rho"] == 0.6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["simulate", "nowhere"], "scenario.json: No such file"),
        (["simulate", "nowhere", "--policy", "best"], "no policy is called best"),
        (["scenario", "best"], "best is no family"),
        (["scenario", "gentd26", "one.csv"], "two files"),
    ],
)
def test_complaints_name_what_is_wrong(words: list[str], said: str) -> None:
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2
    assert said in told.stderr
