"""What is taken off its device waits nowhere until its agent has given it back."""

from __future__ import annotations

import pytest

from scheduler.decisions import Bind, Preempt
from scheduler.live import Live
from scheduler.runqueue import Ticket
from scheduler.sched import Sched
from scheduler.trace import check_integrity
from tests.support.core import Core, ticket


@pytest.fixture
def one_taken_off() -> tuple[Live, Sched, Ticket]:
    """A ticket that the core took off d0 while it was claimed for it, and has queued again; the
    decision is in its books."""
    core = Core(resident="a")
    core.submit(ticket("1", level=0))
    sched = core.sched
    taken = sched.devices["d0"].running["1"]
    sched.books.preempt(sched.devices["d0"], taken, "for a test")
    live = Live(sched, lambda: 0.0)
    live.claiming.add("1")
    return live, sched, taken


def test_it_is_in_no_queue(one_taken_off: tuple[Live, Sched, Ticket]) -> None:
    live, sched, taken = one_taken_off
    live.did(sched.books.take())
    assert live.decided() == [Preempt(taken, "d0", "for a test")]
    assert live.preempting == {"1"}
    assert sched.queues.get("1") is None
    check_integrity(sched)


def test_what_is_bound_there_again_at_once_stays(one_taken_off: tuple[Live, Sched, Ticket]) -> None:
    live, sched, taken = one_taken_off
    device = sched.devices["d0"]
    sched.queues.pop(taken)
    sched.books.bind(device, taken, 0.0, "again")
    live.did(sched.books.take())
    assert live.decided() == []
    assert not live.preempting
    assert device.running == {"1": taken}
    check_integrity(sched)


def test_what_is_bound_elsewhere_at_once_waits_for_its_agent(
    one_taken_off: tuple[Live, Sched, Ticket],
) -> None:
    live, sched, taken = one_taken_off
    sched.device_up("d1", "n", 115.0, 0.0, resident=("a",))
    sched.books.take()
    sched.queues.pop(taken)
    sched.books.bind(sched.devices["d1"], taken, 0.0, "elsewhere")
    decisions = [Preempt(taken, "d0", "for a test"), *sched.books.take()]
    live.did(decisions)
    assert [d for d in live.decided() if isinstance(d, Bind)] == []
    assert live.preempting == {"1"}
    assert not sched.devices["d1"].running
    check_integrity(sched)


def test_what_has_ended_and_is_being_stopped_is_only_forgotten(
    one_taken_off: tuple[Live, Sched, Ticket],
) -> None:
    live, sched, taken = one_taken_off
    live.claiming.clear()
    live.did(sched.books.take())
    assert live.decided() == [Preempt(taken, "d0", "for a test")]
    assert not live.preempting
    assert sched.queues.get("1") is None
    check_integrity(sched)
