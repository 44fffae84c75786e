"""Who goes on sending what is refused, by a clock that the tests move."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from atelier.errors import AtelierError, NotFoundError, QuotaExceededError
from atelier.rpc import shown_error
from gateway.overrun import BURST, DEEPEST, REFUSALS_A_SECOND, Overrun, RefusedTooOftenError

A_MOMENT, SECONDS = 0.001, 20


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def overrun(clock: Clock) -> Overrun:
    return Overrun(clock=clock)


def call(overrun: Overrun, taken: int = 0, refused: int = 0, tenant: str = "acme") -> None:
    with overrun.call(tenant) as came:
        came.taken, came.refused = taken, refused


def ended(overrun: Overrun, tenant: str = "acme") -> AtelierError | None:
    try:
        call(overrun, tenant=tenant)
    except RefusedTooOftenError as error:
        return error
    return None


def test_refusals_up_to_the_bound_are_free(overrun: Overrun) -> None:
    for _ in range(int(BURST)):
        call(overrun, refused=1)
    assert ended(overrun)


def test_an_error_of_that_kind_counts_and_no_other_does(overrun: Overrun) -> None:
    for _ in range(int(BURST)):
        with pytest.raises(NotFoundError), overrun.call("acme"):
            raise NotFoundError("no such model")
    for _ in range(int(BURST)):
        with pytest.raises(QuotaExceededError), overrun.call("acme"):
            raise QuotaExceededError("acme", "max_queued", "full", retry_after_seconds=1.0)
    assert ended(overrun)


def test_past_it_nothing_of_that_tenant_is_read_until_it_has_waited_as_told(
    overrun: Overrun, clock: Clock
) -> None:
    call(overrun, refused=int(BURST) + 5)
    told = ended(overrun)
    assert told and (told.code, told.reason) == ("RESOURCE_EXHAUSTED", "REFUSED_TOO_OFTEN")
    assert told.retry_after_seconds
    assert told.retry_after_seconds == pytest.approx(6 / REFUSALS_A_SECOND)
    assert not ended(overrun, "neighbour")
    clock.now += told.retry_after_seconds + A_MOMENT
    assert not ended(overrun)


def test_of_a_flood_comes_through_what_is_let_in_and_a_few_to_find_out(
    overrun: Overrun, clock: Clock
) -> None:
    """500 a second, of which the plan lets in 25; then 1,000, of which it lets in 900."""
    for rate, plan, most_refused in ((500, 25, 25 + REFUSALS_A_SECOND), (1_000, 900, 100)):
        tokens, let_in, refused = 1.0, 0, 0
        for _ in range(rate * SECONDS):
            clock.now += 1 / rate
            tokens = min(float(plan), tokens + plan / rate)
            taken = tokens >= 1
            try:
                call(overrun, taken=taken, refused=not taken)
            except RefusedTooOftenError:
                continue
            tokens -= taken
            let_in, refused = let_in + taken, refused + (not taken)
        assert let_in >= 0.95 * plan * SECONDS
        assert refused <= most_refused * SECONDS + BURST


def test_those_under_way_hold_what_they_may_cost(overrun: Overrun) -> None:
    call(overrun, refused=int(BURST) - 2)
    with overrun.call("acme"), overrun.call("acme"):
        assert ended(overrun)
    assert not ended(overrun)


def test_one_batch_is_not_held_against_its_tenant_for_long(overrun: Overrun, clock: Clock) -> None:
    call(overrun, refused=1_000)
    assert ended(overrun)
    clock.now += (1 - DEEPEST) / REFUSALS_A_SECOND + A_MOMENT
    assert not ended(overrun)


def test_a_flood_is_a_line_a_second_in_the_log(overrun: Overrun, clock: Clock) -> None:
    call(overrun, refused=1_000)
    with capture_logs() as lines:
        for _ in range(300):
            error = ended(overrun)
            assert error
            assert shown_error(error, "/CreateGeneration") is error
        assert [(line["tenant"], line["count"]) for line in lines] == [("acme", 1)]
        clock.now += 1.0
        assert ended(overrun)
    assert [line["count"] for line in lines] == [1, 300]
