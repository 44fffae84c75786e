"""What ours is compared with behaves as it is described, and loses where it is said to lose."""

import pytest

from scheduler.model import Model, Shape
from scheduler.runqueue import Late, Ticket
from scheduler.simulation import baselines, report
from scheduler.simulation.simulate import Simulation
from scheduler.simulation.world import Gpu, Run, Scenario
from tests.support.scenarios import small

SHAPE = Shape(0.0, 0.1, 0.1, 1e9, 1)
MODELS = {name: Model(name, 8e9, 5.0, {"s": SHAPE}) for name in "abcd"}


def tiny(*asked: tuple[float, str, float], devices: int = 2, memory: float = 20e9) -> Scenario:
    """Requests of 9 steps, a second each, as (when, model, objective in seconds)."""
    requests = tuple(
        Ticket(f"{i:08d}", "t", model, "s", 1, 9, 1, t, slo=slo)
        for i, (t, model, slo) in enumerate(asked)
    )
    gpus = tuple(Gpu(str(i), "n", memory, 1.0) for i in range(devices))
    return Scenario("tiny", 100.0, 0.0, gpus, MODELS, requests)


def run(scenario: Scenario, name: str) -> Run:
    policy = baselines.policy(name, scenario.models, Late.CASCADE)
    return Simulation(scenario, policy, keep_timeline=True).run()


def where(result: Run) -> str:
    return "".join(o.gpu for o in result.outcomes.values())


def test_round_robin_takes_turns() -> None:
    assert where(run(tiny(*[(0.1 * i, "a", 99) for i in range(4)]), "round-robin")) == "0101"


@pytest.mark.parametrize("name", ["least-loaded", "least-work", "p2c"])
def test_the_least_loaded_is_blind_to_what_is_there(name: str) -> None:
    result = run(tiny((0, "a", 99), (0.1, "b", 99), (0.2, "a", 99), (0.3, "b", 99)), name)
    loads = sum(1 for span in result.timeline if span.kind == "load")
    assert loads >= 2


@pytest.mark.parametrize("name", ["ect", "modelmesh", "consistent-hash"])
def test_affinity_loads_each_model_once(name: str) -> None:
    asked = [(8.0 * i, "ab"[i % 2], 99) for i in range(8)]
    result = run(tiny(*asked), name)
    assert sum(1 for span in result.timeline if span.kind == "load") == 2


def test_a_hash_keeps_a_model_on_one_device() -> None:
    result = run(tiny(*[(0.1 * i, "a", 99) for i in range(6)]), "consistent-hash")
    assert len(set(where(result))) == 1


def test_what_was_used_longest_ago_is_evicted() -> None:
    asked = [(0, "a", 99), (10, "b", 99), (20, "a", 99), (30, "c", 99)]
    result = run(tiny(*asked, devices=1), "least-loaded")
    assert next(s.evicted for s in result.timeline if s.kind == "load" and s.evicted) == ("b",)


def test_clockwork_drops_the_late_and_serves_who_is_due_first() -> None:
    asked = [(0, "a", 99), (5.5, "a", 40), (5.6, "a", 9), (5.7, "a", 1.2)]
    result = run(tiny(*asked, devices=1), "clockwork")
    outcomes = list(result.outcomes.values())
    assert [o.rejected for o in outcomes] == [False, False, False, True]
    assert outcomes[2].finish < outcomes[1].finish


def test_a_lost_device_takes_its_queue_elsewhere() -> None:
    result = run(small("fail", seed=2), "round-robin")
    gone = {o.gpu for o in result.outcomes.values()}
    assert len(gone) > 1
    assert all(o.finish >= 0 or o.start < 0 for o in result.outcomes.values())


def test_ours_wins_where_there_are_many_models() -> None:
    scenario = small("zipf40")
    goodput = {}
    for name in baselines.NAMES:
        figures = report.figures(run(scenario, name), name, 1)
        goodput[name] = figures["slo_goodput_weighted"]
    assert max(goodput, key=lambda name: goodput[name]) == baselines.OURS
    blind = max(goodput[n] for n in ("round-robin", "least-loaded", "least-work", "p2c"))
    assert goodput["clockwork"] > blind


def test_an_unknown_name_is_no_policy() -> None:
    with pytest.raises(KeyError):
        baselines.policy("best", MODELS, Late.CASCADE)
