"""Device-seconds are divided by rows, and none is counted twice or lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.device_time import DeviceTime


def test_who_is_alone_has_all_of_it() -> None:
    time = DeviceTime()
    time.joined("a", "d0", 1, 10.0)
    assert time.used("a", 13.0) == 3.0
    time.left("a", 14.0)
    assert time.used("a", 99.0) == 4.0
    time.forget("a", 99.0)
    assert time.used("a", 99.0) == 0.0 and len(time) == 0


def test_those_together_share_by_their_rows() -> None:
    time = DeviceTime()
    time.joined("a", "d0", 1, 0.0)
    time.joined("b", "d0", 3, 2.0)
    time.left("a", 6.0)
    time.left("b", 7.0)
    assert (time.used("a", 9.0), time.used("b", 9.0)) == (3.0, 4.0)


def test_a_gang_takes_all_its_devices_and_another_attempt_begins_anew() -> None:
    time = DeviceTime()
    time.joined("a", "d0", 1, 0.0, devices=4)
    assert time.used("a", 2.0) == 8.0
    time.joined("a", "d1", 1, 5.0)
    assert time.used("a", 6.0) == 1.0


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans(), st.floats(0, 5)), max_size=60))
def test_all_shares_are_the_time_that_anybody_was_there(
    steps: list[tuple[str, bool, float]],
) -> None:
    time, now, busy = DeviceTime(), 0.0, 0.0
    there: set[str] = set()
    told = 0.0
    for name, comes, passed in steps:
        busy += passed if there else 0.0
        now += passed
        told += time.used(name, now) if name in there or comes else 0.0
        if comes:
            time.joined(name, "d0", 1 + ord(name) % 3, now)
            there.add(name)
        elif name in there:
            time.forget(name, now)
            there.discard(name)
    told += sum(time.used(name, now) for name in there)
    assert told == pytest.approx(busy)
