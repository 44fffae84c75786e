"""A device's way out of use and back."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.health import (
    FORGIVEN_SECONDS,
    GOOD_PROBES,
    LONGEST_PROBE_SECONDS,
    PROBE_PATIENCE_SECONDS,
    RECYCLE_PATIENCE_SECONDS,
    SILENT_SECONDS,
    Action,
    Health,
    State,
)

SILENT, LOST = "Triton gave no answer", "it fell off the bus"


def out(now: float = 0.0) -> Health:
    """A device that was lost."""
    health = Health()
    assert health.sampled(LOST, now, sure=True, gone=True) == [Action.TAKE_BACK]
    health.sampled("", now)
    return health


def next_probe(health: Health, now: float) -> float:
    """When the next probe is due, by halves of seconds."""
    while health.tick(now, busy=False) != [Action.PROBE]:
        now += 0.5
    return now


def test_a_breath_costs_nobody_anything() -> None:
    health = Health()
    assert health.sampled(SILENT, 0.0) == []
    assert (health.state, health.reason) == (State.SUSPECT, SILENT)
    assert health.sampled(SILENT, SILENT_SECONDS - 1) == []
    assert health.sampled("", SILENT_SECONDS) == []
    assert (health.state, health.reason) == (State.WELL, "")


def test_silence_that_goes_on_takes_its_work_back() -> None:
    health = Health()
    health.sampled(SILENT, 0.0)
    assert health.sampled(SILENT, SILENT_SECONDS) == [Action.TAKE_BACK]
    assert health.state is State.OUT
    # And again, with each report: an attempt may have been on its way.
    assert health.sampled(SILENT, SILENT_SECONDS + 1) == [Action.TAKE_BACK]


def test_what_is_sure_is_not_waited_for() -> None:
    health = out()
    assert (health.state, health.reason) == (State.OUT, LOST)


def test_good_probes_in_a_row_bring_it_back() -> None:
    health, now = out(), 0.0
    for _ in range(GOOD_PROBES - 1):
        now = next_probe(health, now)
        health.probed("", now)
        assert health.state is State.OUT
    now = next_probe(health, now)
    health.probed("a step failed", now)
    for _ in range(GOOD_PROBES):
        assert health.state is State.OUT
        now = next_probe(health, now)
        health.probed("", now)
    assert (health.state, health.reason) == (State.WELL, "")


def test_probes_that_fail_come_later_and_later() -> None:
    health, now, times = out(), 0.0, []
    while len(times) < 12:
        now = next_probe(health, now)
        times.append(now)
        if Action.RECYCLE in health.probed("a step failed", now):
            health.recycled("it cannot be", now)
    pauses = [b - a for a, b in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[0] >= 2
    assert pauses[-1] == LONGEST_PROBE_SECONDS


def test_every_second_probe_that_fails_starts_its_triton_anew() -> None:
    health = out()
    now = next_probe(health, 0.0)
    assert health.probed("a step failed", now) == []
    now = next_probe(health, now)
    assert health.probed("a step failed", now) == [Action.RECYCLE]
    assert health.state is State.RECYCLING
    assert health.sampled(SILENT, now + 60) == []  # of course it is
    health.sampled("", now + 61)
    health.recycled("", now + 62)
    assert health.state is State.OUT
    assert next_probe(health, now + 62) == now + 63  # soon, and if that fails much later
    health.probed("a step failed", now + 63)
    assert next_probe(health, now + 63) == now + 63 + 8


def test_what_is_off_the_bus_is_not_started_anew() -> None:
    health = Health()
    now = 0.0
    for _ in range(6):
        health.sampled(LOST, now, sure=True, gone=True)
        now = next_probe(health, now)
        assert health.probed(LOST, now) == []


def test_it_is_not_well_while_its_samples_are_bad() -> None:
    health = Health()
    health.sampled(LOST, 0.0, sure=True, gone=True)
    now = 0.0
    for _ in range(GOOD_PROBES + 1):
        now = next_probe(health, now)
        health.probed("", now)
    assert health.state is State.OUT
    health.sampled("", now)
    health.probed("", next_probe(health, now))
    assert health.state is State.WELL


def first_probe_after(troubles: int) -> float:
    """Seconds from the last of so many troubles, each of which it got over, to its first probe."""
    health, now = Health(), 0.0
    for _ in range(troubles):
        now += 10.0
        health.sampled(LOST, now, sure=True)
        started = now
        health.sampled("", now)
        first = now = next_probe(health, now)
        for _ in range(GOOD_PROBES):
            health.probed("", now)
            now = next_probe(health, now) if health.state is State.OUT else now
        assert health.state is State.WELL
    return first - started


def test_a_device_that_flaps_is_kept_out_longer() -> None:
    pauses = [first_probe_after(n) for n in (1, 2, 3, 4)]
    assert pauses == [1, 2, 4, 8]


def test_one_that_often_takes_a_breath_must_prove_itself() -> None:
    health, now = Health(), 0.0
    for _ in range(2):
        health.sampled(SILENT, now)
        health.sampled("", now + 1)
        assert health.state is State.WELL
        now += 10
    health.sampled(SILENT, now)
    assert health.sampled("", now + 1) == []  # what runs there runs on
    assert health.state is State.OUT
    assert "3 times" in health.reason


def test_old_troubles_are_forgiven() -> None:
    health, now = Health(), 0.0
    for _ in range(6):
        health.sampled(SILENT, now)
        health.sampled("", now + 1)
        assert health.state is State.WELL
        now += FORGIVEN_SECONDS / 2


def test_memory_that_is_kept_drains_recycles_and_is_probed() -> None:
    health = Health()
    health.keeps_memory("5 bytes", 0.0)
    assert (health.state, health.reason) == (State.DRAINING, "5 bytes")
    assert health.tick(100.0, busy=True) == []
    assert health.sampled("", 100.0) == []
    assert health.tick(101.0, busy=False) == [Action.RECYCLE]
    assert health.tick(102.0, busy=False) == []
    health.recycled("", 110.0)
    now = 110.0
    for _ in range(GOOD_PROBES):
        now = next_probe(health, now)
        health.probed("", now)
    assert health.state is State.WELL


def test_answers_that_never_come_are_not_waited_for() -> None:
    health = out()
    now = next_probe(health, 0.0)
    assert health.tick(now + PROBE_PATIENCE_SECONDS - 1, busy=False) == []
    health.tick(now + PROBE_PATIENCE_SECONDS + 1, busy=False)
    assert health.reason == "a probe gave no answer"
    health = Health()
    health.keeps_memory("5 bytes", 0.0)
    health.tick(1.0, busy=False)
    health.tick(2.0 + RECYCLE_PATIENCE_SECONDS, busy=False)
    assert health.state is State.OUT


def test_a_line_that_broke_takes_its_questions_with_it() -> None:
    health = out()
    now = next_probe(health, 0.0)
    health.reconnected(now)
    assert health.tick(now, busy=False) == [Action.PROBE]
    health = Health()
    health.keeps_memory("5 bytes", 0.0)
    health.tick(1.0, busy=False)
    health.reconnected(2.0)
    assert health.state is State.OUT


class Machine(RuleBasedStateMachine):
    """Whatever comes in whatever order: only a well device is without a reason, none is stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.health, self.now = Health(), 0.0

    @rule(seconds=st.floats(0.1, 300))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(trouble=st.sampled_from(["", SILENT, LOST]))
    def sample(self, trouble: str) -> None:
        lost = trouble == LOST
        self.health.sampled(trouble, self.now, sure=lost, gone=lost)

    @rule(busy=st.booleans())
    def tick(self, busy: bool) -> None:
        self.health.tick(self.now, busy=busy)

    @rule(failure=st.sampled_from(["", "a step failed"]))
    def probed(self, failure: str) -> None:
        self.health.probed(failure, self.now)

    @rule(failure=st.sampled_from(["", "it cannot be"]))
    def recycled(self, failure: str) -> None:
        self.health.recycled(failure, self.now)

    @rule()
    def leak(self) -> None:
        self.health.keeps_memory("5 bytes", self.now)

    @rule()
    def reconnect(self) -> None:
        self.health.reconnected(self.now)

    @invariant()
    def a_reason_unless_well(self) -> None:
        assert (self.health.state is State.WELL) == (self.health.reason == "")

    def teardown(self) -> None:
        """From anywhere, a device that works is well again within a bounded time."""
        now = self.now
        for _ in range(4_000):
            if self.health.state is State.WELL:
                return
            now += 0.5
            self.health.sampled("", now)
            for action in self.health.tick(now, busy=False):
                if action is Action.RECYCLE:
                    self.health.recycled("", now)
                else:
                    self.health.probed("", now)
        raise AssertionError(self.health)


TestHealth = Machine.TestCase
TestHealth.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
