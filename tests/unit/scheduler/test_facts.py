"""What agents say, held against what can be."""

from __future__ import annotations

from scheduler.facts import misfit, rows_granted
from tests.support.core import MODELS, capacity, ticket


def test_a_device_holds_no_more_than_it_has() -> None:
    two = ticket("1", "a", rows=2)
    assert not misfit(int(capacity(121.0)), ["a"], [two], MODELS)
    assert "it holds 120 bytes" in misfit(int(capacity(119.0)), ["a"], [two], MODELS)
    assert "this model is not there" in misfit(int(capacity(500.0)), [], [two], MODELS)


def test_what_runs_on_a_small_device_was_granted_what_fits_there() -> None:
    many = ticket("1", "a", rows=4)
    assert rows_granted(many, int(capacity(125.0)), MODELS) == 2
    assert rows_granted(many, int(capacity(500.0)), MODELS) == 4
    assert rows_granted(many, 0, MODELS) == 1  # at least; that it does not fit is told elsewhere
