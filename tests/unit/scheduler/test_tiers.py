"""Host memory as a tier of weights, and parts that models share."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from scheduler.host import HostTier
from scheduler.model import Model, models_of, union
from scheduler.runqueue import Late
from scheduler.simulation import baselines
from scheduler.simulation.replay import violations
from scheduler.simulation.simulate import Simulation
from scheduler.simulation.world import Scenario, Span
from scheduler.trace import check_integrity
from tests.support.cards import toy_card
from tests.support.core import SHAPE, Core, ticket
from tests.support.scenarios import small


def quick(name: str, **shared: float) -> Model:
    """Ten seconds from disk, one from host memory."""
    return Model(name, 100.0, 10.0, {"s": SHAPE}, load_host=1.0, shared=shared)


def tiered(scenario: Scenario, gigabytes: float) -> Scenario:
    """The scenario with host memory, and one GB alike in all models on one device."""
    models = {
        name: replace(
            model, load_host=model.load / 10, shared={"common": 1e9} if model.gang == 1 else {}
        )
        for name, model in scenario.models.items()
    }
    nodes = {gpu.node for gpu in scenario.gpus}
    return replace(scenario, models=models, host_memory=dict.fromkeys(nodes, gigabytes * 1e9))


def test_what_a_device_gives_up_comes_back_from_host_memory() -> None:
    core = Core(models={m: quick(m) for m in "ab"})
    core.sched.host_up("n", 150.0)
    core.submit(ticket("1", "a"))
    assert core.sched.devices["d0"].load_ends == 10.0
    told = core.follow(core.sched.loaded("d0", "a", 10.0), 10.0)
    assert told == ["hold a in the memory of n", "bind 1 -> d0"]
    core.finish("1", 14.0)
    assert core.follow(core.sched.order_load("b", "d0", 100.0), 100.0) == [
        "load b on d0 instead of a"
    ]
    core.follow(core.sched.loaded("d0", "b", 110.0), 110.0)
    assert core.submit(ticket("2", "a", at=130.0), 130.0) == ["load a on d0 instead of b"]
    assert core.sched.devices["d0"].load_ends == 131.0
    check_integrity(core.sched)


def test_the_disk_is_read_ahead_for_what_is_asked_for_most() -> None:
    core = Core(models={m: quick(m) for m in "abc"}, usable=115.0)
    core.sched.host_up("n", 100.0)
    core.submit(ticket("1", "a"))
    for i in range(3):
        core.submit(ticket(f"b{i}", "b"))
    assert "hold nothing in the memory of n, reading b" in core.follow(core.sched.tick(0.5), 0.5)
    assert not [d for d in core.follow(core.sched.tick(1.0), 1.0) if d.startswith("hold")]
    core.sched.warmed("n", "b")
    assert core.sched.placement.load_seconds("b") == 1.0
    assert core.sched.placement.load_seconds("a") == 10.0


def test_the_least_valuable_makes_way_and_a_lesser_newcomer_stays_out() -> None:
    worth = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.5}
    tier = HostTier("n", 200.0, {m: quick(m) for m in "abcd"}, lambda m, _: worth[m])
    assert [m for m in "abcd" if tier.admit(m, 0.0)] == ["a", "b", "c"]
    assert list(tier.held) == ["a", "c"]
    worth["d"] = 2.5
    assert not tier.warm("d", 0.0)  # not so much better that a read would pay
    worth["d"] = 4.0
    assert tier.warm("d", 0.0)
    assert list(tier.held) == ["a"]


def test_a_shared_part_is_held_once_and_loaded_once() -> None:
    models = {m: quick(m, vae=40.0) for m in "ab"}
    assert union(models.values()) == 160.0
    core = Core(models=models, usable=180.0, resident="a")
    core.submit(ticket("1", "b"))
    device = core.sched.devices["d0"]
    assert (device.loading, device.load_ends) == ("b", 6.0)  # six tenths of it were missing
    core.follow(core.sched.loaded("d0", "b", 6.0), 6.0)
    assert device.weights(core.sched.models) == 160.0
    assert device.free(core.sched.models) == 10.0
    check_integrity(core.sched)


def test_cards_share_the_triton_models_that_both_name() -> None:
    one = toy_card()
    other = replace(one, name="other")
    part = one.components.vae_decoder
    weighed = replace(one, weights={part: 10, one.components.denoiser: 5})
    alone = models_of([weighed])["toy"]
    assert not alone.shared
    both = models_of([weighed, replace(other, weights={part: 10})])
    assert both["toy"].shared == both["other"].shared == {part: 10}


@pytest.mark.parametrize("policy", [baselines.OURS, "least-work", "modelmesh", "clockwork"])
@pytest.mark.parametrize("name", ["thrash", "fail", "gang"])
def test_schedules_with_tiers_keep_every_rule(name: str, policy: str) -> None:
    scenario = tiered(small(name), 60.0)
    made = baselines.policy(policy, scenario.models, Late.CASCADE)
    run = Simulation(scenario, made, keep_timeline=True).run()
    done = [i for i, o in run.outcomes.items() if o.finish >= 0]
    assert violations(scenario, run.timeline, done) == []
    if name == "thrash":
        assert any(span.kind == "hold" for span in run.timeline)


def test_a_broken_tier_is_found_out() -> None:
    scenario = tiered(small("thrash"), 60.0)
    run = Simulation(scenario, Late.CASCADE, keep_timeline=True).run()
    done = [i for i, o in run.outcomes.items() if o.finish >= 0]
    loads = [s for s in run.timeline if s.kind == "load" and not s.cut]
    rng = Random(1)
    fast = rng.choice(loads)
    tampered = [s._replace(ended=s.began + 0.01) if s is fast else s for s in run.timeline]
    assert any("loads" in line for line in violations(scenario, tampered, done))
    conjured = Span("hold", "0", 0.0, 0.0, requests=(next(iter(scenario.models)),))
    assert any("which was on none" in v for v in violations(scenario, [conjured], []))
    everything = [
        Span("warm", "0", 100.0 * i, 100.0 * i + m.gains_from_host, m.name)
        for i, m in enumerate(scenario.models.values())
    ]
    assert any("GB in memory" in v for v in violations(scenario, everything, []))
