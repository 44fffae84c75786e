import math

import pytest

from scheduler.runqueue import GlobalQueue, RunQueues, Ticket

KEY = ("toy", "64x64")


def ticket(name: str, *, level: int = 1, deadline: float = math.inf, model: str = "toy") -> Ticket:
    return Ticket(name, "local", model, "64x64", rows=1, steps=4, level=level, submitted=0.0,
                  deadline=deadline)  # fmt: skip


def test_order_is_class_then_deadline_then_age() -> None:
    queue = GlobalQueue(KEY)
    for t in (ticket("4", level=0), ticket("2"), ticket("1", level=2), ticket("3", deadline=5.0)):
        queue.push(t)
    assert [queue.pop().id for _ in range(4)] == ["1", "3", "2", "4"]


def test_pop_of_an_empty_queue_raises() -> None:
    with pytest.raises(IndexError):
        GlobalQueue(KEY).pop()


def test_a_removed_ticket_never_surfaces() -> None:
    queues = RunQueues()
    for name in "abc":
        queues.push(ticket(name))
    assert queues.remove("a")
    assert queues.remove("a") is None
    assert "a" not in queues
    assert queues.pop(KEY).id == "b"
    assert len(queues) == 1


def test_a_ticket_removed_and_pushed_again_is_served_once() -> None:
    queues = RunQueues()
    queues.push(ticket("a"))
    queues.remove("a")
    queues.push(ticket("a"))
    assert queues.pop(KEY).id == "a"
    assert queues.head(KEY) is None
    assert len(queues) == 0


def test_empty_queues_are_dropped() -> None:
    queues = RunQueues()
    queues.push(ticket("a"))
    queues.pop(KEY)
    assert list(queues) == []


def test_best_looks_at_the_given_models_only() -> None:
    queues = RunQueues()
    queues.push(ticket("a", model="other"))
    queues.push(ticket("b"))
    best = queues.best({"toy"})
    assert best is not None and best.id == "b"
    assert queues.best({"absent"}) is None


def test_position_counts_who_is_served_before() -> None:
    queues = RunQueues()
    first, urgent, last = ticket("a"), ticket("c", level=2), ticket("b")
    for t in (first, last, urgent):
        queues.push(t)
    assert [queues.position(t) for t in (urgent, first, last)] == [0, 1, 2]
