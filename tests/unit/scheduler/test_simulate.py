"""Simulated schedules keep the rules, by a replay that shares no code with what made them."""

from dataclasses import asdict, replace

import pytest

from scheduler.runqueue import Late
from scheduler.simulation import baselines
from scheduler.simulation.families import FAMILIES, make
from scheduler.simulation.replay import violations
from scheduler.simulation.simulate import Simulation
from scheduler.simulation.world import Run, Scenario, Span
from tests.support.scenarios import small


def run(scenario: Scenario, name: str = baselines.OURS, late: Late = Late.CASCADE) -> Run:
    policy = baselines.policy(name, scenario.models, late)
    return Simulation(scenario, policy, keep_timeline=True).run()


def wrong(result: Run) -> list[str]:
    done = [name for name, o in result.outcomes.items() if o.finish >= 0]
    return violations(result.scenario, result.timeline, done)


@pytest.mark.parametrize("late", Late)
@pytest.mark.parametrize("name", FAMILIES)
def test_ours_keeps_every_rule(name: str, late: Late) -> None:
    result = run(small(name), late=late)
    assert wrong(result) == []
    for outcome in result.outcomes.values():  # nothing is lost
        assert outcome.finish >= 0 or (outcome.rejected and late is Late.REJECT)


@pytest.mark.parametrize("policy", baselines.BASELINES)
@pytest.mark.parametrize("name", ["zipf40", "gang", "fail"])
def test_baselines_keep_every_rule(name: str, policy: str) -> None:
    result = run(small(name), policy)
    assert wrong(result) == []
    assert any(o.finish >= 0 for o in result.outcomes.values())


@pytest.mark.parametrize("policy", baselines.NAMES)
def test_the_same_scenario_ends_the_same(policy: str) -> None:
    one, other = (run(small("zipf40"), policy) for _ in range(2))
    assert one.timeline == other.timeline
    assert [asdict(o) for o in one.outcomes.values()] == [
        asdict(o) for o in other.outcomes.values()
    ]


def test_a_scenario_is_not_changed_by_a_run() -> None:
    scenario = small("hot1")
    before = [asdict(t) for t in scenario.requests]
    run(scenario)
    assert before == [asdict(t) for t in scenario.requests]


def test_a_failure_takes_no_more_than_since_the_checkpoint() -> None:
    scenario = small("fail", seed=2)
    result = run(scenario)
    cut = [span for span in result.timeline if span.cut and span.kind == "steps"]
    assert cut
    for span in cut:
        for name in span.requests:
            ticket = result.outcomes[name].ticket
            batches = [s for s in result.timeline if name in s.requests and s.kind == "steps"]
            failures = sum(1 for s in result.timeline if name in s.requests and s.cut)
            done = sum(s.steps for s in batches)
            assert ticket.steps <= done <= ticket.steps + failures * scenario.checkpoint_steps


@pytest.mark.parametrize("policy", [baselines.OURS, "clockwork", "ect"])
def test_a_gang_that_loses_a_member_keeps_every_rule(policy: str) -> None:
    scenario = make("gang", 0.8, 2, horizon=200)
    failures = [(40.0 + 11 * i, "fail", gpu.id) for i, gpu in enumerate(scenario.gpus[:12])]
    failures += [(t + 25.0, "recover", gpu) for t, _, gpu in failures]
    result = run(replace(scenario, failures=tuple(sorted(failures))), policy)
    assert any(span.cut and scenario.models[span.model].gang > 1 for span in result.timeline)
    assert wrong(result) == []


# The replay itself: it sees what is wrong.


@pytest.fixture(scope="module")
def good() -> Run:
    return run(small("zipf40"))


def test_the_replay_sees_a_load_that_is_missing(good: Run) -> None:
    load = next(s for s in good.timeline if s.kind == "load")
    assert violations(good.scenario, [s for s in good.timeline if s is not load], [])


def test_the_replay_sees_a_broken_step(good: Run) -> None:
    broken = [
        s._replace(ended=s.ended - 0.01) if s.kind == "steps" and i > 50 else s
        for i, s in enumerate(good.timeline)
    ]
    assert any("takes" in said for said in violations(good.scenario, broken, []))


def test_the_replay_sees_two_at_once(good: Run) -> None:
    twice = [*good.timeline, next(s for s in good.timeline if s.kind == "steps")]
    assert any("at once" in said for said in violations(good.scenario, twice, []))


def test_the_replay_sees_steps_that_are_missing(good: Run) -> None:
    steps = next(s for s in good.timeline if s.kind == "steps")
    rest = [s for s in good.timeline if s is not steps]
    assert any("steps" in said for said in violations(good.scenario, rest, steps.requests))


def test_the_replay_sees_too_little_memory(good: Run) -> None:
    tight = replace(
        good.scenario, gpus=tuple(replace(g, memory=g.memory / 2) for g in good.scenario.gpus)
    )
    assert any("holds" in said for said in violations(tight, good.timeline, []))


def test_the_replay_sees_work_on_a_device_that_is_down(good: Run) -> None:
    gpu = good.scenario.gpus[0].id
    first = next(s for s in good.timeline if s.kind == "steps" and s.gpu == gpu)
    down = Span("fail", gpu, first.began - 0.001, first.began - 0.001)
    said = violations(good.scenario, [*good.timeline, down], [])
    assert any("while it is down" in line for line in said)


def test_the_replay_sees_a_gang_without_a_shard() -> None:
    result = run(make("gang", 0.8, 2, horizon=200))
    shard = next(
        s for s in result.timeline
        if s.kind == "load" and result.scenario.models[s.model].gang > 1
    )  # fmt: skip
    rest = [s for s in result.timeline if s is not shard]
    assert any("devices can" in said for said in violations(result.scenario, rest, []))
