"""Buckets and bounds of tenants, by a clock that the tests move."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.errors import AtelierError
from atelier.generation import Priority
from atelier.plan import Plan, plan_violations
from scheduler.limits import Limits

NORMAL = Priority.NORMAL


def limits(**bounds: float) -> Limits:
    made = Limits()
    made.set("acme", Plan(**bounds), 0.0)  # type: ignore[arg-type]
    return made


def ask(
    of: Limits, now: float, *, tenant: str = "acme", waiting: int = 0, unfinished: int = 0
) -> AtelierError | None:
    return of.refusal(tenant, NORMAL, waiting=waiting, unfinished=unfinished, now=now)


def pause(of: Limits, now: float) -> float:
    """Seconds that a refusal tells to wait."""
    error = ask(of, now)
    assert error and error.code == "RESOURCE_EXHAUSTED" and error.retry_after_seconds
    return error.retry_after_seconds


@given(
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 3), max_size=80),
)
def test_never_more_than_the_rate_and_a_burst(rate: float, burst: int, gaps: list[float]) -> None:
    of, now = limits(requests_per_second=rate, requests_burst=burst), 0.0
    taken: list[float] = []  # when
    for gap in gaps:
        now += gap
        if ask(of, now) is None:
            taken.append(now)
        for since, first in enumerate(taken):  # in any time, not only from the beginning on
            assert len(taken) - since <= rate * (taken[-1] - first) + burst + 1e-6


def test_a_pause_gives_a_burst_and_no_more() -> None:
    of = limits(requests_per_second=1, requests_burst=3)
    for moment in (0.0, 1_000.0):
        assert [ask(of, moment) for _ in range(3)] == [None] * 3
        assert pause(of, moment) == pytest.approx(1.0)


def test_who_waits_as_long_as_told_is_taken() -> None:
    of = limits(requests_per_second=3)
    assert [ask(of, 0.0) for _ in range(3)] == [None] * 3
    wait = pause(of, 0.0)
    assert pause(of, wait / 2) < wait
    assert ask(of, wait) is None


def test_gpu_seconds_are_charged_afterwards_and_a_debt_is_made_up_for() -> None:
    of = limits(gpu_seconds_per_hour=3_600, gpu_seconds_burst=10)
    assert ask(of, 0.0) is None
    of.spent("acme", 25.0, 0.0)
    assert pause(of, 0.0) == pytest.approx(15.0)
    assert ask(of, 15.1) is None


def test_bounds_of_what_waits_and_of_what_is_not_finished() -> None:
    of = limits(max_queued=2, max_unfinished=5)
    assert ask(of, 0.0, waiting=1, unfinished=4) is None
    for waiting, unfinished, quota in ((2, 2, "max_queued"), (1, 5, "max_unfinished")):
        error = ask(of, 0.0, waiting=waiting, unfinished=unfinished)
        assert error and error.metadata == {"tenant": "acme", "quota": quota}


def test_nobody_else_is_bound_and_the_house_has_a_plan_of_its_own() -> None:
    of = limits(requests_per_second=1)
    assert ask(of, 0.0) is None and ask(of, 0.0)
    assert [ask(of, 0.0, tenant="shop") for _ in range(99)] == [None] * 99
    of.default = Plan(requests_per_second=1)
    assert ask(of, 0.0, tenant="shop") is None and ask(of, 0.0, tenant="shop")
    assert ask(of, 0.0, tenant="other") is None  # each has its own bucket


def test_a_plan_that_changes_holds_at_once_and_gives_nothing_for_it() -> None:
    of = limits(requests_per_second=10)
    assert all(ask(of, 0.0) is None for _ in range(10))
    of.set("acme", Plan(requests_per_second=20), 0.0)
    assert pause(of, 0.0) == pytest.approx(0.05)
    of.set("acme", Plan(requests_per_second=0.5), 100.0)
    assert ask(of, 100.0) is None
    assert pause(of, 100.0) == pytest.approx(2.0)
    of.set("acme", None, 100.0)
    assert ask(of, 100.0) is None


def test_classes_above_the_plan_are_refused_and_not_taken_where_none_was_named() -> None:
    of = limits()
    of.set("acme", Plan(highest_priority=Priority.BATCH), 0.0)
    error = of.refusal("acme", NORMAL, waiting=0, unfinished=0, now=0.0)
    assert error and (error.code, error.reason) == ("PERMISSION_DENIED", "PRIORITY_NOT_ALLOWED")
    assert of.lowered("acme", NORMAL) is Priority.BATCH
    assert of.lowered("shop", NORMAL) is NORMAL


def test_buckets_that_are_full_again_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atelier.buckets.MOST_IDLE", 10)
    of = Limits(Plan(requests_per_second=1, requests_burst=5))
    for number in range(100):
        assert ask(of, float(number * 10), tenant=str(number)) is None
    assert len(of._requests) <= 11


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e12])
def test_a_plan_is_refused_by_field(value: float) -> None:
    plan = Plan(requests_per_second=value, gpu_seconds_burst=5)
    fields = {wrong.field for wrong in plan_violations(plan)}
    assert fields == {"plan.requests_per_second", "plan.gpu_seconds_burst"}
