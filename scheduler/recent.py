"""The latest decisions, for whoever looks later or watches.

One ring for all: who watches keeps the number of the last decision that it was told, and comes for
more when it is woken. So a slow watcher holds nobody up and nothing is kept for it; what has left
the ring meanwhile it missed, and it can count how much. Pure, but for the events that it sets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from scheduler.decisions import Bind, Hold, Load, Preempt, Reject, Unload

KEPT = 4_000  # decisions; at the highest rates seen, some seconds

Noted = Bind | Preempt | Load | Unload | Hold | Reject


def reason_of(decision: Noted) -> str:
    """Why; what a node's memory holds follows from the loads."""
    return "" if isinstance(decision, Hold) else decision.reason


@dataclass(frozen=True, slots=True)
class Record:
    """One decision: its number, from 1, and when it was made."""

    sequence: int
    time: datetime
    decision: Noted


class Recent:
    """Written by dispatch alone; read by anybody."""

    def __init__(self, wall: Callable[[], datetime], kept: int = KEPT) -> None:
        self.last = 0  # number of the latest decision
        self._ring: deque[Record] = deque(maxlen=kept)
        self._wall = wall
        self._watching: set[asyncio.Event] = set()

    def note(self, decision: Noted) -> None:
        """It was made now; who watches is woken."""
        self.last += 1
        self._ring.append(Record(self.last, self._wall(), decision))
        self.wake()

    def wake(self) -> None:
        """Whoever watches looks."""
        for event in self._watching:
            event.set()

    def latest(self, limit: int) -> list[Record]:
        """At most so many, the oldest first."""
        return list(islice(self._ring, max(0, len(self._ring) - limit), None))

    def since(self, sequence: int, limit: int) -> tuple[int, list[Record]]:
        """How many after that number are kept no more; then the next ones, at most `limit`."""
        first = self._ring[0].sequence if self._ring else self.last + 1
        missed = max(0, first - sequence - 1)
        start = max(0, sequence + 1 - first)
        return missed, list(islice(self._ring, start, start + limit))

    @contextmanager
    def watching(self) -> Iterator[asyncio.Event]:
        """An event that is set at each decision, for as long as the block lasts."""
        event = asyncio.Event()
        self._watching.add(event)
        try:
            yield event
        finally:
            self._watching.discard(event)
