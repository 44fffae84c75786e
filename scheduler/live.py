"""What is in memory of every unfinished generation, kept in step with the database.

The loops call these methods after the database agreed, never before. Nothing here waits: so the
core, the views and the registry of running attempts always change together.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime

from atelier.errors import AtelierError, InvalidArgumentError, NotFoundError, Violation
from atelier.generation import Generation, State
from scheduler.decisions import Bind, Boundary, Decision, Preempt
from scheduler.device_time import DeviceTime
from scheduler.journal import Journal
from scheduler.limits import Limits
from scheduler.runqueue import Ticket, objective
from scheduler.sched import Sched
from scheduler.watchers import Watchers


class Live:
    """The core, the views and the running attempts. `wake` is set when there may be work."""

    def __init__(
        self,
        sched: Sched,
        clock: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.sched = sched
        self.journal = Journal(wall)
        self.watchers = Watchers(self.journal)
        self.running: dict[str, Generation] = {}  # by id; each with its lease_token and device
        self.cancelling: set[str] = set()  # told or to be told to stop
        self.preempting: set[str] = set()  # taken off by the core; their agent is asked
        self.claiming: set[str] = set()  # bound; the database is asked
        self.lost: set[tuple[str, int]] = set()  # (id, lease_token) about to be given to others
        self.wake = asyncio.Event()
        self.limits = Limits()
        self._device_time = DeviceTime()
        self._clock = clock
        self._wall = wall
        self._decisions: list[Decision] = []
        self._delayed: dict[str, Ticket] = {}
        self._deadlines: list[tuple[datetime, str]] = []  # when to look, a heap

    def now(self) -> float:
        """Seconds on the core's clock."""
        return self._clock()

    def did(self, decisions: list[Decision]) -> None:
        """The core decided; dispatch carries it out."""
        self._decisions += self._hold_back(decisions)
        self.wake.set()

    def decided(self) -> list[Decision]:
        """Everything that the core decided since the last call."""
        taken, self._decisions = self._decisions, []
        return taken

    def boundary(self, device_id: str, now: float) -> list[Decision]:
        """The core's, once it was told how far the device is, by the latest reports.

        Told here and not before, as in the simulator: between two boundaries wakep sees what was
        left at the first. Exact steps there make larger batches, and without preemption that cost
        the urgent more than it gave (benchmarks/bench_devices.py: goodput 0.70 in place of 0.76).
        """
        device = self.sched.devices.get(device_id)
        for generation_id in device.running if device else ():
            view = self.watchers.view(generation_id)
            if view and view.progress:
                self.sched.advanced(generation_id, device_id, view.progress.step)
        return self._hold_back(self.sched.boundary(device_id, now))

    def _hold_back(self, decisions: list[Decision]) -> list[Decision]:
        """What is taken off its device waits nowhere until its agent has given it back: to the
        database it runs until then, and could not be claimed. What the same decisions bind to the
        same device again stays where it is.
        """
        kept = list(decisions)
        for preempt in [d for d in decisions if isinstance(d, Preempt)]:
            ticket = preempt.ticket
            again = [d for d in kept if isinstance(d, Bind) and d.ticket is ticket]
            for bind in again:
                kept.remove(bind)
            if any(bind.device_id == preempt.device_id for bind in again):
                kept.remove(preempt)
                continue
            if again:
                self.sched.finished(ticket)
            else:
                self.sched.remove(ticket.id)
            if ticket.id in self.running or ticket.id in self.claiming:
                self.preempting.add(ticket.id)  # else it has ended, and its agent stops it already
        return kept

    def device_down(self, device_id: str) -> None:
        """A device is gone from the core, and what it ran with it: the database says what now."""
        for ticket in self.sched.device_down(device_id):
            self.sched.finished(ticket)
            self._off_device(ticket.id)
        self.wake.set()

    @property
    def queued(self) -> int:
        return len(self.sched.queues) + len(self._delayed)

    def unfit(self, generation: Generation) -> AtelierError | None:
        """Why the core cannot take it. A gateway that was started after us may know another model,
        and one that is at fault may send what takes no time, which would be divided by."""
        if generation.model not in self.sched.models:
            text = f"no model {generation.model} is served here yet"
            return NotFoundError(text, reason="NO_MODEL")
        try:
            takes_time = generation.spec.count >= 1 and generation.spec.run_steps >= 1
        except (ValueError, OverflowError):  # a strength that is no number
            takes_time = False
        text = "must have one picture and one step at least"
        return None if takes_time else InvalidArgumentError([Violation("spec", text)])

    def accepted(self, generation: Generation) -> None:
        """It is QUEUED in the database. Nothing changes where that is known."""
        if generation.state is not State.QUEUED or self.knows(generation.id):
            return
        self._drop(generation.id)
        self.watchers.publish(generation)
        self.watch_deadline(generation)
        self._submit(self.ticket(generation))

    def claimed(self, generation: Generation) -> None:
        """It is RUNNING in the database, by this attempt."""
        self.claiming.discard(generation.id)
        self.running[generation.id] = generation
        self._device_time.joined(
            generation.id,
            generation.device,
            generation.spec.count,
            self._clock(),
            devices=self.sched.models[generation.model].gang,
        )
        self.watchers.publish(generation)

    def requeued(
        self, generation: Generation, delay_seconds: float = 0.0, steps_done: int = 0
    ) -> None:
        """It is QUEUED again; it comes back to the queues after a delay, to go on after the steps
        that are done."""
        self._release(generation.id)
        self.watchers.publish(generation)
        ticket = self._delayed[generation.id] = self.ticket(generation)
        ticket.steps_left = max(1, ticket.steps - steps_done)
        if delay_seconds <= 0:
            self._resubmit(generation.id)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(delay_seconds, self._resubmit, generation.id)

    def ended(self, generation: Generation, *, stopping: bool = False) -> None:
        """It reached its final state; where its agent is still `stopping` it, it keeps its device
        until the agent answers (`released`), or until the device comes anew."""
        assert generation.state.final
        self._release(generation.id, drop=not stopping)
        self._delayed.pop(generation.id, None)
        self.sched.remove(generation.id)
        self.watchers.publish(generation)

    def released(self, generation_id: str) -> None:
        """It needs its device no more, though it still runs (it is being uploaded)."""
        self._drop(generation_id)

    def gpu_seconds(self, generation_id: str, lease_token: int) -> float:
        """That an attempt took so far; 0 where it is not the current one."""
        if not self.holds(generation_id, lease_token):
            return 0.0
        return self._device_time.used(generation_id, self._clock())

    def spent(self, tenant: str, gpu_seconds: float) -> None:
        """The database agreed that an attempt of the tenant's took so much."""
        self.limits.spent(tenant, gpu_seconds, self._clock())

    def holds(self, generation_id: str, lease_token: int) -> Generation | None:
        """The running generation, if this is its current attempt."""
        generation = self.running.get(generation_id)
        return generation if generation and generation.lease_token == lease_token else None

    def knows(self, generation_id: str) -> bool:
        """Whether it waits, is being claimed, or runs: something will move it on."""
        return (
            generation_id in self.running
            or generation_id in self.claiming
            or generation_id in self._delayed
            or generation_id in self.sched.queues
        )

    def agrees(self, generation_id: str, lease_token: int | None) -> bool:
        """Whether memory is no older than a row that stood so a moment ago."""
        running = self.running.get(generation_id)
        if lease_token is None:
            return self.knows(generation_id)
        if running and running.lease_token is not None:
            return running.lease_token >= lease_token
        return generation_id in self.claiming

    def watch_deadline(self, generation: Generation) -> None:
        """Let `overdue` tell when its deadline is past."""
        if generation.deadline:
            self.look_again(generation.id, generation.deadline)

    def look_again(self, generation_id: str, at: datetime) -> None:
        """Let `overdue` tell of it then."""
        if len(self._deadlines) > 2 * len(self.watchers) + 1_000:  # most have ended long ago
            self._deadlines = [d for d in self._deadlines if self.watchers.is_live(d[1])]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (at, generation_id))

    def overdue(self, now: datetime) -> list[str]:
        """Ids of live ones whose deadline is past; each is told once."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            generation_id = heapq.heappop(self._deadlines)[1]
            if self.watchers.is_live(generation_id):
                found.append(generation_id)
        return found

    def ticket(self, generation: Generation) -> Ticket:
        """What the core knows of it. It is due by its class's objective, or its own deadline."""
        now, spec = self._wall(), generation.spec
        age_seconds = max(0.0, (now - generation.create_time).total_seconds())
        shape = self.sched.models[generation.model].shapes[spec.shape]
        rows = min(spec.count, shape.batch_cap)  # more go in chunks, one after another
        level = generation.priority.level
        slo = objective(level, shape.work(spec.run_steps, rows))
        if generation.deadline:
            slo = min(slo, (generation.deadline - generation.create_time).total_seconds())
        return Ticket(
            id=generation.id,
            tenant=generation.tenant,
            model=generation.model,
            shape=spec.shape,
            rows=rows,
            steps=spec.run_steps,
            level=level,
            submitted=self._clock() - age_seconds,
            slo=slo,
        )

    def _resubmit(self, generation_id: str) -> None:
        ticket = self._delayed.pop(generation_id, None)  # gone if it was cancelled meanwhile
        if ticket:
            self._submit(ticket)

    def _submit(self, ticket: Ticket) -> None:
        self.did(self.sched.submit(ticket, self._clock()))

    def _drop(self, generation_id: str) -> None:
        """The core has it on a device no more; that device looks up."""
        if ticket := self.sched.books.bound.get(generation_id):
            self.sched.finished(ticket)
            self.did([Boundary(ticket.device)])
        self._off_device(generation_id)

    def _off_device(self, generation_id: str) -> None:
        """What it used is known until its attempt's end was told."""
        self._device_time.left(generation_id, self._clock())
        if generation_id not in self.running:
            self._device_time.forget(generation_id, self._clock())

    def _release(self, generation_id: str, *, drop: bool = True) -> None:
        self.running.pop(generation_id, None)
        self.claiming.discard(generation_id)
        self.cancelling.discard(generation_id)
        self.preempting.discard(generation_id)
        if drop:
            self._drop(generation_id)
        self.wake.set()
