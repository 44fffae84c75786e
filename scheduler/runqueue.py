"""Queues of waiting generations: one for each (model, shape), which devices pull from.

Binding is late: a generation belongs to no device until a device asks for it. Inside a queue the
order is rank (twice the class, from the most urgent; late work sits on a lower one), then key (the
time it is due, plus what its tenant is ahead of its fair share), then age. Pure.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

Key = tuple[str, str]  # (model, shape): what may share a batch
Order = tuple[int, float, str]

WEIGHTS = (1.0, 2.0, 4.0)  # what a generation of class 0 (batch), 1 and 2 (interactive) is worth
DOOMED = 90.0  # seconds: how far behind the due time of class 0 late work queues


class Late(StrEnum):
    """What becomes of a generation that can no longer meet its objective."""

    CASCADE = "cascade"  # it is served as the next lower class, with that class's objective
    DOOM = "doom"  # it shares class 0's queue from then on
    REJECT = "reject"  # it is refused


def objective(level: int, alone: float) -> float:
    """Seconds after submit by which a generation should be done; `alone`: its unloaded latency."""
    factor, margin = ((20, 300), (5, 10), (2, 1))[level]
    return max(factor * alone, alone + margin)


@dataclass(eq=False, slots=True)
class Ticket:
    """What the core knows of a generation (G): never its prompt. Owned by the core.

    Times are seconds on the caller's clock; ids sort by age.
    """

    id: str
    tenant: str
    model: str
    shape: str
    rows: int  # of a batch: its number of pictures
    steps: int
    level: int  # as submitted: the class, 2 interactive, 1 normal, 0 batch
    submitted: float
    deadline: float = math.inf  # the caller's own: it is rejected when it cannot be met
    slo: float = math.inf  # seconds after submit by which it should be done
    group: str = ""  # pictures of one request

    steps_left: int = 0
    cls: int = 0  # the class it is served as; late ones come down
    rank: int = 0  # of the queue: 2 * (2 - cls), +1 for the hopeless
    due: float = math.inf  # when it should be done, as it is served
    key: float = math.inf
    late: bool = False
    counted: bool = False  # among those that can still be in time
    work: float = 0.0  # seconds alone, at speed 1
    device: str = ""  # where it last ran

    @property
    def queue(self) -> Key:
        return self.model, self.shape

    @property
    def order(self) -> Order:
        """Lower is served first."""
        return self.rank, self.key, self.id


class GlobalQueue:
    """A heap of tickets of one key. Removal is lazy: what was removed is skipped as it surfaces."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self._heap: list[tuple[int, float, str, int, Ticket]] = []
        self._live: dict[str, tuple[int, Order]] = {}  # id -> number and order of its push
        self._pushes = 0
        self._sorted: list[Order] | None = None  # the live ones, once a position was asked for

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Ticket]:
        return (entry[4] for entry in self._heap if self._is_live(entry))

    def push(self, ticket: Ticket) -> None:
        assert ticket.id not in self._live
        self._pushes += 1
        order = ticket.order
        self._live[ticket.id] = self._pushes, order
        heapq.heappush(self._heap, (*order, self._pushes, ticket))
        if self._sorted is not None:
            insort(self._sorted, order)

    def head(self) -> Ticket | None:
        """The next to be served; it stays queued."""
        heap = self._heap
        while heap:
            entry = heap[0]
            if self._is_live(entry):
                return entry[4]
            heapq.heappop(heap)
        return None

    def pop(self) -> Ticket:
        """Take the head. Raises IndexError when empty."""
        ticket = self.head()
        if ticket is None:
            raise IndexError(f"queue {self.key} is empty")
        heapq.heappop(self._heap)
        self.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        _, order = self._live.pop(ticket.id)
        if self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, order)]

    def position(self, ticket: Ticket) -> int:
        """How many are served before it. For people, not for decisions: the first time it sorts
        all, and from then on every push and removal keeps them sorted."""
        if self._sorted is None:
            self._sorted = sorted(order for _, order in self._live.values())
        return bisect_left(self._sorted, ticket.order)

    def _is_live(self, entry: tuple[int, float, str, int, Ticket]) -> bool:
        known = self._live.get(entry[2])
        return known is not None and known[0] == entry[3]


class RunQueues:
    """All queues, and sums over them by model. Late heads make way as they surface."""

    def __init__(
        self,
        late: Late,
        left: Callable[[Ticket], float],
        settled: Callable[[Ticket], None],
        rejected: Callable[[Ticket], None],
    ) -> None:
        """`left`: seconds of work left of a ticket; the others hear of late and rejected ones."""
        self.late = late
        # Queues stay when they are empty: there are few keys, and who looks into one may refill it.
        self.by_model: dict[str, dict[Key, GlobalQueue]] = defaultdict(dict)
        self.hungry: dict[str, None] = {}  # models that are waited for, in order of their coming
        self.count: dict[str, int] = defaultdict(int)
        self.work: dict[str, float] = defaultdict(float)  # seconds queued
        self.weight: dict[str, float] = defaultdict(float)  # class weight of those still in time
        self._tickets: dict[str, Ticket] = {}
        self._left = left
        self._settled = settled
        self._rejected = rejected

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, ticket_id: object) -> bool:
        return ticket_id in self._tickets

    def __iter__(self) -> Iterator[GlobalQueue]:
        """The queues that are not empty."""
        queues = (queue for model in self.hungry for queue in self.by_model[model].values())
        return (queue for queue in queues if len(queue))

    def get(self, ticket_id: str) -> Ticket | None:
        return self._tickets.get(ticket_id)

    def queue(self, key: Key) -> GlobalQueue | None:
        return self.by_model[key[0]].get(key)

    def push(self, ticket: Ticket) -> None:
        key, model = ticket.queue, ticket.model
        queues = self.by_model[model]
        queue = queues.get(key)
        if queue is None:
            queue = queues[key] = GlobalQueue(key)
        queue.push(ticket)
        self._tickets[ticket.id] = ticket
        self.count[model] += 1
        self.work[model] += self._left(ticket)
        if ticket.counted:
            self.weight[model] += WEIGHTS[ticket.cls]
        self.hungry[model] = None

    def pop(self, ticket: Ticket) -> None:
        """Take it out, wherever it stands."""
        key, model = ticket.queue, ticket.model
        self.by_model[model][key].remove(ticket)
        del self._tickets[ticket.id]
        self.count[model] -= 1
        self.work[model] -= self._left(ticket)
        if ticket.counted:
            self.weight[model] -= WEIGHTS[ticket.cls]
        if not self.count[model]:
            self.work[model] = self.weight[model] = 0.0
            del self.hungry[model]

    def recount(self, model: str) -> None:
        """Its costs changed: the sum of its work with them."""
        if self.count[model]:
            queues = self.by_model[model].values()
            self.work[model] = sum(self._left(ticket) for queue in queues for ticket in queue)

    def head(self, queue: GlobalQueue, now: float) -> Ticket | None:
        """The head, after those that can no longer be in time made way."""
        while (ticket := queue.head()) is not None:
            end = now + self._left(ticket)
            if end <= ticket.due or (ticket.late and end <= ticket.deadline):
                return ticket
            self.pop(ticket)
            if not self.overdue(ticket, end):
                self.push(ticket)
        return None

    def overdue(self, ticket: Ticket, end: float) -> bool:
        """It can no longer meet its objective, and is not queued. True if it is rejected.

        `end`: when it could end at the earliest. What its caller will not wait for is not run.
        """
        self._settled(ticket)
        if self.late is Late.REJECT or end > ticket.deadline:
            self._rejected(ticket)
            return True
        ahead = ticket.key - ticket.due
        if self.late is Late.DOOM:
            ticket.rank, ticket.cls, ticket.late = 4, 0, True
            ticket.key += ticket.submitted + DOOMED - ticket.due
            ticket.due = math.inf
        elif ticket.cls == 0:
            ticket.rank |= 1
            ticket.late = True
            ticket.key = ticket.submitted
        else:
            ticket.cls -= 1
            ticket.rank += 2
            ticket.due = ticket.submitted + objective(ticket.cls, ticket.work)
            ticket.key = ticket.due + ahead
        return False
