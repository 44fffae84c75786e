"""What fails on a device again and again is left alone for a while, and then tried by one batch."""

from __future__ import annotations

import pytest

from scheduler.breaker import FAILURES, LONGEST_PAUSE, PAUSE, Breaker
from tests.support.core import Core, ticket


def test_failures_in_a_row_open_it_for_longer_each_time() -> None:
    breaker, now = Breaker(), 100.0
    assert [breaker.failed(now + 2 * i) for i in range(FAILURES)] == [0.0] * (FAILURES - 1) + [
        PAUSE
    ]
    assert breaker.failed(now + 2 * FAILURES) == 0.0  # begun before it opened
    pauses = []
    for _ in range(8):
        now = breaker.open_until
        pauses.append(breaker.failed(now))
    assert pauses[:2] == [2 * PAUSE, 4 * PAUSE]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE


def test_a_call_that_fails_with_many_rows_is_one_failure() -> None:
    breaker = Breaker()
    assert not any(breaker.failed(100.0 + i / 100) for i in range(50))


def test_the_model_is_not_begun_there_and_others_are() -> None:
    core = Core(resident="ab", usable=250.0)
    device = core.sched.devices["d0"]
    times = [2.0 * i for i in range(FAILURES)]
    assert [device.ran_badly("a", now) for now in times][-1] == PAUSE
    core.submit(ticket("1", model="a"), times[-1])
    core.submit(ticket("2", model="b"), times[-1])
    assert list(device.running) == ["2"]
    core.finish("2", times[-1] + 1)
    assert not device.running
    core.boundary("d0", times[-1] + PAUSE)
    assert list(device.running) == ["1"]
    device.ran("a")
    assert not device.breakers


@pytest.mark.parametrize(("failures", "batch"), [(0, 4), (FAILURES, 1)])
def test_nobody_joins_what_fails_there(failures: int, batch: int) -> None:
    core = Core(resident="a")
    core.submit(ticket("1", slo=1000.0))
    for i in range(failures):
        core.sched.devices["d0"].ran_badly("a", 2.0 * i)
    for name in "23456":
        core.submit(ticket(name, slo=1000.0), 5.0)
    core.boundary("d0", 5.0)
    assert len(core.sched.devices["d0"].running) == batch
