"""Queues of waiting generations: one for each (model, shape), which devices pull from.

Binding is late: a generation belongs to no device until a device asks for it. Inside a queue the
order is class first (interactive, normal, batch), then earliest deadline, then age. Pure.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

Key = tuple[str, str]  # (model, shape): what may share a batch
Order = tuple[int, float, str]


@dataclass(frozen=True)
class Ticket:
    """What the core knows of a generation (G): never its prompt.

    `rows` is how many rows of a batch it takes (its number of pictures); times are seconds on the
    caller's clock; ids are UUIDv7, so that comparing them compares ages.
    """

    id: str
    tenant: str
    model: str
    shape: str
    rows: int
    steps: int
    level: int  # priority class: 2 interactive, 1 normal, 0 batch
    submitted: float
    deadline: float = math.inf

    @property
    def key(self) -> Key:
        return self.model, self.shape

    @property
    def order(self) -> Order:
        """Lower is served first."""
        return -self.level, self.deadline, self.id


@dataclass
class GlobalQueue:
    """A heap of tickets of one key. Removal is lazy: a removed id is skipped when it surfaces."""

    key: Key
    _heap: list[tuple[Order, Ticket]] = field(default_factory=list)
    _live: dict[str, Ticket] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._live.values())

    def push(self, ticket: Ticket) -> None:
        assert ticket.key == self.key and ticket.id not in self._live
        self._live[ticket.id] = ticket
        heapq.heappush(self._heap, (ticket.order, ticket))

    def head(self) -> Ticket | None:
        """The next to be served; it stays queued."""
        while self._heap and self._live.get(self._heap[0][1].id) is not self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def pop(self) -> Ticket:
        """Take the head. Raises IndexError when empty."""
        ticket = self.head()
        if ticket is None:
            raise IndexError(f"queue {self.key} is empty")
        heapq.heappop(self._heap)
        del self._live[ticket.id]
        return ticket

    def get(self, ticket_id: str) -> Ticket | None:
        return self._live.get(ticket_id)

    def remove(self, ticket_id: str) -> Ticket | None:
        return self._live.pop(ticket_id, None)


class RunQueues:
    """All global queues; empty ones are dropped, so that a scan sees only what waits."""

    def __init__(self) -> None:
        self._queues: dict[Key, GlobalQueue] = {}
        self._key_of: dict[str, Key] = {}

    def __len__(self) -> int:
        return len(self._key_of)

    def __contains__(self, ticket_id: object) -> bool:
        return ticket_id in self._key_of

    def __iter__(self) -> Iterator[GlobalQueue]:
        return iter(self._queues.values())

    def push(self, ticket: Ticket) -> None:
        self._queues.setdefault(ticket.key, GlobalQueue(ticket.key)).push(ticket)
        self._key_of[ticket.id] = ticket.key

    def head(self, key: Key) -> Ticket | None:
        queue = self._queues.get(key)
        return queue.head() if queue else None

    def pop(self, key: Key) -> Ticket:
        ticket = self._queues[key].pop()
        self._forget(ticket.id, key)
        return ticket

    def remove(self, ticket_id: str) -> Ticket | None:
        key = self._key_of.get(ticket_id)
        if key is None:
            return None
        ticket = self._queues[key].remove(ticket_id)
        self._forget(ticket_id, key)
        return ticket

    def get(self, ticket_id: str) -> Ticket | None:
        key = self._key_of.get(ticket_id)
        return self._queues[key].get(ticket_id) if key else None

    def best(self, models: frozenset[str] | set[str]) -> Ticket | None:
        """The head that is served first among the queues of these models."""
        heads = (queue.head() for queue in self if queue.key[0] in models)
        return min((h for h in heads if h), key=lambda ticket: ticket.order, default=None)

    def position(self, ticket: Ticket) -> int:
        """How many of its queue are served before it."""
        queue = self._queues.get(ticket.key, ())
        return sum(1 for other in queue if other.order < ticket.order)

    def _forget(self, ticket_id: str, key: Key) -> None:
        del self._key_of[ticket_id]
        if not self._queues[key]:
            del self._queues[key]
