"""The breaker: what opens it, and that it takes more than one good probe to close it."""

from __future__ import annotations

from atelier.store_breaker import GOOD_PROBES, SLOW_CALLS, Breaker


def test_one_failure_opens_it_and_is_told_once() -> None:
    breaker = Breaker(slow_seconds=1.0)
    assert not breaker.is_open
    assert breaker.failed()
    assert breaker.is_open
    assert not breaker.failed()


def test_slow_calls_open_it_only_in_a_row() -> None:
    breaker = Breaker(slow_seconds=1.0)
    for _ in range(3):
        assert not any(breaker.worked(1.0) for _ in range(SLOW_CALLS - 1))
        assert not breaker.worked(0.5)
    assert [breaker.worked(2.0) for _ in range(SLOW_CALLS)] == [False] * (SLOW_CALLS - 1) + [True]
    assert breaker.is_open


def test_good_probes_close_it_only_in_a_row() -> None:
    breaker = Breaker(slow_seconds=1.0)
    breaker.failed()
    for bad in (None, 1.0):
        assert not any(breaker.probed(0.1) for _ in range(GOOD_PROBES - 1))
        assert not breaker.probed(bad)
    closed = [breaker.probed(0.1) for _ in range(GOOD_PROBES)]
    assert closed == [False] * (GOOD_PROBES - 1) + [True]
    assert not breaker.is_open


def test_a_failure_while_it_is_open_begins_the_probes_anew() -> None:
    breaker = Breaker(slow_seconds=1.0)
    breaker.failed()
    breaker.probed(0.1)
    breaker.probed(0.1)
    breaker.failed()
    assert not breaker.probed(0.1)
    assert breaker.is_open


def test_calls_that_were_under_way_do_not_close_it() -> None:
    breaker = Breaker(slow_seconds=1.0)
    breaker.failed()
    assert not breaker.worked(0.1)
    assert breaker.is_open
