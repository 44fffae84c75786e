"""What operators are told: the ring of decisions, decisions and queues as messages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2
from scheduler.decisions import Bind, Hold, Load, Preempt, Reject, Unload
from scheduler.fleet_view import decision_to, queue_to
from scheduler.recent import Noted, Recent, Record
from scheduler.runqueue import GlobalQueue
from tests.support.core import ticket

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ring(*, kept: int, made: int) -> Recent:
    recent = Recent(lambda: AT, kept)
    for n in range(1, made + 1):
        recent.note(Unload(f"m{n}", "d"))
    return recent


def numbers(records: list[Record]) -> list[int]:
    return [record.sequence for record in records]


def test_the_latest_come_oldest_first() -> None:
    recent = ring(kept=4, made=6)
    assert numbers(recent.latest(2)) == [5, 6]
    assert numbers(recent.latest(100)) == [3, 4, 5, 6]
    assert recent.latest(0) == []


@pytest.mark.parametrize(
    ("after", "missed", "told"),
    [(0, 2, [3, 4]), (1, 1, [3, 4]), (2, 0, [3, 4]), (4, 0, [5, 6]), (5, 0, [6]), (6, 0, [])],
)
def test_who_comes_back_hears_what_it_missed(after: int, missed: int, told: list[int]) -> None:
    gap, records = ring(kept=4, made=6).since(after, limit=2)
    assert (gap, numbers(records)) == (missed, told)


def test_nothing_is_missed_where_nothing_was_decided() -> None:
    assert Recent(lambda: AT).since(0, 10) == (0, [])


def test_only_who_watches_is_woken() -> None:
    recent = ring(kept=4, made=0)
    with recent.watching() as news:
        recent.note(Unload("m", "d"))
        assert news.is_set()
        news.clear()
    recent.note(Unload("m", "d"))
    assert not news.is_set()


@pytest.mark.parametrize(
    ("decision", "fields"),
    [
        (
            Bind(ticket("g"), "d", "it leads"),
            {"kind": pb.DECISION_KIND_RUN, "generation_id": "g", "model": "a", "device_id": "d",
             "reason": "it leads"},
        ),
        (
            Preempt(ticket("g"), "d", "h is more urgent"),
            {"kind": pb.DECISION_KIND_PREEMPT, "generation_id": "g", "model": "a",
             "device_id": "d", "reason": "h is more urgent"},
        ),
        (
            Load("a", "d", ("b", "c"), "ordered"),
            {"kind": pb.DECISION_KIND_LOAD, "model": "a", "device_id": "d",
             "evicted_models": ["b", "c"], "reason": "ordered"},
        ),
        (
            Unload("a", "d", "ordered"),
            {"kind": pb.DECISION_KIND_UNLOAD, "model": "a", "device_id": "d", "reason": "ordered"},
        ),
        (
            Hold("n", ("a", "b"), "c"),
            {"kind": pb.DECISION_KIND_HOLD, "node": "n", "model": "c",
             "host_memory_models": ["a", "b", "c"]},
        ),
        (
            Reject(ticket("g"), "too late"),
            {"kind": pb.DECISION_KIND_REJECT, "generation_id": "g", "model": "a",
             "reason": "too late"},
        ),
    ],
)  # fmt: skip
def test_a_decision_as_a_message(decision: Noted, fields: dict[str, object]) -> None:
    expected = pb.Decision(sequence=7, **fields)  # type: ignore[arg-type]
    expected.time.FromDatetime(AT)
    assert decision_to(Record(7, AT, decision)) == expected


def test_a_queue_tells_who_waits_and_who_is_late() -> None:
    queue = GlobalQueue(("a", "s"))
    for name, level, at in (("g1", 2, 4.0), ("g2", 0, 1.0), ("g3", 0, 3.0)):
        one = ticket(name, level=level, at=at)
        one.cls = level
        queue.push(one)
    late = ticket("g4", level=2, at=2.0)
    late.cls = 1  # it came down a class
    queue.push(late)
    told = queue_to(queue, 10.0)
    assert (told.model, told.shape, told.depth, told.oldest_wait_seconds) == ("a", "s", 4, 9.0)
    interactive, batch = told.classes
    assert interactive == pb.QueueClass(
        priority=generation_pb2.PRIORITY_INTERACTIVE, depth=2, late=1, oldest_wait_seconds=8.0
    )
    assert batch == pb.QueueClass(
        priority=generation_pb2.PRIORITY_BATCH, depth=2, oldest_wait_seconds=9.0
    )
