"""What is in memory of every unfinished generation, kept in step with the database.

The loops call these methods after the database agreed, never before. Nothing here waits: so the
core, the views and the registry of running attempts always change together.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import datetime

from atelier.generation import Generation
from scheduler.runqueue import Ticket
from scheduler.sched import Sched
from scheduler.watchers import Watchers


class Live:
    """The core, the views and the running attempts. `wake` is set when there may be work."""

    def __init__(self, sched: Sched, clock: Callable[[], float]) -> None:
        self.sched = sched
        self.watchers = Watchers()
        self.running: dict[str, Generation] = {}  # by id; each with its lease_token and device
        self.cancelling: set[str] = set()  # told or to be told to stop
        self.wake = asyncio.Event()
        self._clock = clock
        self._delayed: dict[str, Ticket] = {}
        self._deadlines: list[tuple[datetime, str]] = []

    def now(self) -> float:
        """Seconds on the core's clock."""
        return self._clock()

    @property
    def queued(self) -> int:
        return len(self.sched.queues) + len(self._delayed)

    def accepted(self, generation: Generation) -> None:
        """It is durable and waits."""
        self.watchers.publish(generation)
        self.watch_deadline(generation)
        self.sched.submit(self.ticket(generation))
        self.wake.set()

    def claimed(self, generation: Generation) -> None:
        """It is RUNNING in the database, by this attempt."""
        self.running[generation.id] = generation
        self.watchers.publish(generation)

    def requeued(self, generation: Generation, delay_seconds: float = 0.0) -> None:
        """It is QUEUED again; it comes back to the queues after a delay."""
        self._release(generation.id)
        self.watchers.publish(generation)
        self._delayed[generation.id] = self.ticket(generation)
        if delay_seconds <= 0:
            self._resubmit(generation.id)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(delay_seconds, self._resubmit, generation.id)

    def ended(self, generation: Generation) -> None:
        """It reached its final state."""
        assert generation.state.final
        self._release(generation.id)
        self._delayed.pop(generation.id, None)
        self.sched.remove(generation.id)
        self.watchers.publish(generation)

    def released(self, generation_id: str) -> None:
        """It needs its device no more, though it still runs (it is being uploaded)."""
        self.sched.drop(generation_id)
        self.wake.set()

    def holds(self, generation_id: str, lease_token: int) -> Generation | None:
        """The running generation, if this is its current attempt."""
        generation = self.running.get(generation_id)
        return generation if generation and generation.lease_token == lease_token else None

    def watch_deadline(self, generation: Generation) -> None:
        """Let `overdue` tell when its deadline is past."""
        if generation.deadline:
            heapq.heappush(self._deadlines, (generation.deadline, generation.id))

    def overdue(self, now: datetime) -> list[str]:
        """Ids whose deadline is past; each is told once."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            found.append(heapq.heappop(self._deadlines)[1])
        return found

    def ticket(self, generation: Generation) -> Ticket:
        """What the core knows of it. Deadlines order by their wall time; the core never adds."""
        deadline = generation.deadline.timestamp() if generation.deadline else float("inf")
        return Ticket(
            id=generation.id,
            tenant=generation.tenant,
            model=generation.model,
            shape=generation.spec.shape,
            rows=generation.spec.count,
            steps=generation.spec.steps,
            level=generation.priority.level,
            submitted=self._clock(),
            deadline=deadline,
        )

    def _resubmit(self, generation_id: str) -> None:
        ticket = self._delayed.pop(generation_id, None)  # gone if it was cancelled meanwhile
        if ticket:
            self.sched.submit(ticket)
            self.wake.set()

    def _release(self, generation_id: str) -> None:
        self.running.pop(generation_id, None)
        self.cancelling.discard(generation_id)
        self.sched.drop(generation_id)
        self.wake.set()
