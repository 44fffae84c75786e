import math
import random

import pytest

from scheduler.runqueue import GlobalQueue, Late, RunQueues, Ticket
from tests.support.core import ticket

KEY = ("a", "s")


def queued(name: str, *, rank: int = 2, key: float = 10.0, model: str = "a") -> Ticket:
    t = ticket(name, model)
    t.rank, t.key, t.due = rank, key, math.inf
    return t


def queues(late: Late = Late.CASCADE, rejected: list[str] | None = None) -> RunQueues:
    told = rejected if rejected is not None else []
    return RunQueues(late, lambda t: t.work, lambda t: None, lambda t: told.append(t.id))


def test_order_is_rank_then_key_then_age() -> None:
    queue = GlobalQueue(KEY)
    for t in (queued("4", rank=4), queued("2"), queued("1", rank=0), queued("3", key=5.0)):
        queue.push(t)
    assert [queue.pop().id for _ in range(4)] == ["1", "3", "2", "4"]


def test_pop_of_an_empty_queue_raises() -> None:
    with pytest.raises(IndexError):
        GlobalQueue(KEY).pop()


def test_a_removed_ticket_never_surfaces_and_may_come_back() -> None:
    all_queues = queues()
    a, b = queued("a"), queued("b")
    for t in (a, b):
        all_queues.push(t)
    all_queues.pop(a)
    assert "a" not in all_queues and len(all_queues) == 1
    queue = all_queues.queue(KEY)
    assert queue is not None and queue.head() is b
    all_queues.push(a)
    assert {t.id for t in queue} == {"a", "b"}
    assert queue.head() is a and len(queue) == 2


def test_sums_by_model_return_to_nothing() -> None:
    all_queues = queues()
    t = queued("a")
    t.work, t.counted, t.cls = 3.0, True, 2
    all_queues.push(t)
    assert (all_queues.work["a"], all_queues.weight["a"]) == (3.0, 4.0)
    assert list(all_queues.hungry) == ["a"]
    all_queues.pop(t)
    assert (all_queues.work["a"], all_queues.weight["a"]) == (0.0, 0.0)
    assert not all_queues.hungry and list(all_queues) == []


def test_a_late_head_makes_way_in_each_mode() -> None:
    for late, rank in ((Late.CASCADE, 2), (Late.DOOM, 4), (Late.REJECT, None)):
        rejected: list[str] = []
        all_queues = queues(late, rejected)
        t = ticket("a", level=2)
        t.work, t.cls, t.rank, t.due, t.key = 2.0, 2, 0, 3.0, 3.0
        all_queues.push(t)
        queue = all_queues.queue(KEY)
        assert queue is not None
        head = all_queues.head(queue, 2.0)
        assert (head.rank if head else None) == rank
        assert rejected == (["a"] if rank is None else [])


def test_position_counts_who_is_served_before() -> None:
    queue = GlobalQueue(KEY)
    tickets = [queued("b"), queued("a"), queued("c", rank=0)]
    for t in tickets:
        queue.push(t)
    assert [queue.position(t) for t in tickets] == [2, 1, 0]


def test_positions_hold_whatever_comes_and_goes() -> None:
    rng = random.Random(7)
    queue = GlobalQueue(KEY)
    waiting: dict[str, Ticket] = {}
    for number in range(400):
        if not waiting or rng.random() < 0.6:
            t = queued(f"{rng.randrange(10**6)}-{number}", rank=rng.randrange(3))
            waiting[t.id] = t
            queue.push(t)
        elif rng.random() < 0.5:
            del waiting[queue.pop().id]
        else:
            queue.remove(waiting.pop(rng.choice(list(waiting))))
        if number > 50:  # what was there before it was first asked counts too
            in_order = sorted(waiting.values(), key=lambda one: one.order)
            assert [queue.position(one) for one in in_order] == list(range(len(in_order)))
