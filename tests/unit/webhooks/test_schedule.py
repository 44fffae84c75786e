"""When a delivery is tried again, and when a receiver is left alone."""

from __future__ import annotations

import pytest

from webhooks.schedule import (
    BREAKS_AT,
    HOUR,
    LONGEST_CLOSED_SECONDS,
    MAX_ATTEMPTS,
    MOST_PATIENCE_SECONDS,
    Answer,
    again_seconds,
    closed_seconds,
)

FAILED = Answer(500, "")


@pytest.mark.parametrize("luck", [0.0, 0.5, 1.0])
def test_ten_attempts_over_three_days_and_more(luck: float) -> None:
    pauses = [again_seconds(FAILED, n, luck) for n in range(1, MAX_ATTEMPTS)]
    assert len(pauses) == 9 and all(pauses)
    assert 72 * HOUR <= sum(pause or 0 for pause in pauses) <= 84 * HOUR
    assert pauses == sorted(pauses, key=lambda pause: pause or 0)
    assert again_seconds(FAILED, MAX_ATTEMPTS, luck) is None


@pytest.mark.parametrize("status", [0, 301, 308, 400, 404, 429, 500, 503])
def test_what_is_no_success_is_tried_again(status: int) -> None:
    assert again_seconds(Answer(status, ""), 1, 0.0) == 5.0


@pytest.mark.parametrize("status", [200, 202, 204, 299, 410])
def test_a_success_and_a_goodbye_are_not(status: int) -> None:
    assert again_seconds(Answer(status, ""), 1, 0.0) is None


def test_who_asks_for_patience_has_it_within_reason() -> None:
    assert again_seconds(Answer(429, "", 60.0), 1, 0.0) == 60.0
    assert again_seconds(Answer(503, "", 60.0), 2, 0.0) == 300.0  # the schedule is longer
    assert again_seconds(Answer(503, "", 1e9), 1, 0.0) == MOST_PATIENCE_SECONDS
    assert again_seconds(Answer(503, "", -5.0), 1, 0.0) == 5.0
    assert again_seconds(Answer(500, "", 60.0), 1, 0.0) == 5.0  # has no say
    assert closed_seconds(1, Answer(429, "", 60.0)) == 60.0


def test_a_lane_closes_for_longer_and_longer() -> None:
    assert [closed_seconds(n, FAILED) for n in range(1, BREAKS_AT)] == [0.0, 0.0]
    pauses = [closed_seconds(BREAKS_AT + n, FAILED) for n in range(12)]
    assert pauses[:3] == [10.0, 20.0, 40.0] and pauses[-1] == LONGEST_CLOSED_SECONDS
    assert pauses == sorted(pauses)
