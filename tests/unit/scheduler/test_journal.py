"""The journal tells each instant once, in order, and can count what it has forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from atelier.generation import Failure, State
from atelier.v1 import generation_pb2 as v1
from scheduler.decisions import Hold, Load
from scheduler.journal import Journal, Kind
from tests.support.generations import generation


class Wall:
    """A second later at each look."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def test_a_life_with_a_second_attempt_is_told_in_its_order() -> None:
    wall = Wall()
    journal = Journal(wall)
    row = replace(generation(), create_time=wall.now)
    journal.stood(row)
    first = replace(row, state=State.RUNNING, attempt=1, device="d0", lease_token=1)
    journal.stood(first)
    journal.progressed(first, v1.PHASE_DENOISING)
    journal.left(row.id, "DEVICE_LOST")
    journal.stood(replace(row, attempt=1))
    second = replace(first, attempt=2, device="d1", lease_token=2)
    journal.stood(second)
    journal.progressed(second, v1.PHASE_DENOISING)
    failure = Failure("INTERNAL", "BROKEN", "it broke")
    journal.stood(replace(second, state=State.FAILED, failure=failure))

    told = [(m.kind, m.attempt, m.device, m.reason) for m in journal.of(row.id)]
    assert told == [
        (Kind.QUEUED, 1, "", ""),
        (Kind.RUNNING, 1, "d0", ""),
        (Kind.PHASE, 1, "d0", ""),
        (Kind.QUEUED, 2, "", "DEVICE_LOST"),
        (Kind.RUNNING, 2, "d1", ""),
        (Kind.PHASE, 2, "d1", ""),
        (Kind.ENDED, 2, "d1", "BROKEN"),
    ]
    assert journal.of(row.id)[0].time == row.create_time


def test_each_step_is_heard_and_only_the_phase_is_kept() -> None:
    journal = Journal(Wall())
    row = replace(generation(), state=State.RUNNING, attempt=1, device="d0", lease_token=1)
    journal.stood(row)
    journal.stood(replace(row, cancel_requested=True))
    for _ in range(20):
        journal.progressed(row, v1.PHASE_DENOISING)
    journal.progressed(row, v1.PHASE_DECODING)
    told = [(m.kind, m.phase) for m in journal.of(row.id)]
    assert told == [
        (Kind.RUNNING, 0),
        (Kind.PHASE, v1.PHASE_DENOISING),
        (Kind.PHASE, v1.PHASE_DECODING),
    ]


def test_loads_and_devices_are_told_with_their_reasons() -> None:
    journal = Journal(Wall())
    journal.decided(Load("tiny", "d0", (), "it is asked for"))
    journal.decided(Hold("n0", ("tiny",)))
    journal.changed("d0", "tiny", resident=False, reason="no memory")
    journal.changed("d0", "tiny", resident=True)
    journal.quarantined("d0", "it hangs")
    journal.quarantined("d0", "")
    told = [(m.kind, m.reason, m.failed) for m in journal.since(0, 100)[1]]
    assert told == [
        (Kind.LOADING, "it is asked for", False),
        (Kind.LOADED, "no memory", True),
        (Kind.LOADED, "", False),
        (Kind.DEVICE, "it hangs", True),
        (Kind.DEVICE, "", False),
    ]


def test_what_has_left_the_ring_is_counted() -> None:
    journal = Journal(Wall(), kept=3)
    for _ in range(5):
        journal.quarantined("d0", "")
    missed, page = journal.since(0, 2)
    assert (missed, [m.sequence for m in page]) == (2, [3, 4])
    assert [m.sequence for m in journal.since(4, 10)[1]] == [5]
    assert journal.since(5, 10) == (0, [])
    assert journal.since(2**63 - 1, 10) == (0, [])  # whatever a caller sends


def test_a_life_is_told_with_the_loads_that_it_waited_for() -> None:
    journal = Journal(Wall())
    row = generation()
    journal.stood(row)
    journal.decided(Load(row.model, "d0", ()))
    journal.decided(Load(row.model, "d1", ()))
    journal.decided(Load("other", "d0", ()))
    journal.changed("d0", row.model, resident=True)
    journal.stood(replace(row, state=State.RUNNING, attempt=1, device="d0", lease_token=1))
    journal.published(row.id)
    assert [(m.kind, m.device) for m in journal.of(row.id)] == [
        (Kind.QUEUED, ""),
        (Kind.LOADING, "d0"),
        (Kind.LOADED, "d0"),
        (Kind.RUNNING, "d0"),
        (Kind.PUBLISHING, ""),
    ]
