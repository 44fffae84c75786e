"""Carries the core's decisions out: claims in the database, then commands to the agents.

Clear, look, wait, in that order, with nothing awaited between looking and deciding.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

import structlog

from atelier.errors import UnavailableError
from atelier.failpoints import failpoint
from atelier.generation import Generation, State
from atelier.generation_store import GenerationStore
from scheduler.decisions import Bind, Boundary, Decision, Hold, Load, Preempt, Unload
from scheduler.fleet import Fleet
from scheduler.lines import Lines
from scheduler.live import Live
from scheduler.outcomes import Outcomes, persist
from scheduler.recent import Noted, Recent, reason_of
from scheduler.trace import check_integrity, decision_line, state_line

log = structlog.get_logger()

TICK_SECONDS = 0.5  # back-offs end and waits grow without anybody's event
DISAGREED_SECONDS = 1.0  # pause of a ticket of which memory and database thought differently


class Dispatch:
    """The loop between the core and the world."""

    def __init__(
        self,
        store: GenerationStore,
        live: Live,
        lines: Lines,
        fleet: Fleet,
        outcomes: Outcomes,
        recent: Recent,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._live = live
        self._lines = lines
        self._fleet = fleet
        self._outcomes = outcomes
        self._recent = recent
        self._clock = clock
        self._broken = ""
        self._next_tick = 0.0

    async def run(self) -> None:
        """Schedule whenever something changed, until cancelled."""
        wake = self._live.wake
        async with asyncio.TaskGroup() as tasks:
            while True:
                wake.clear()
                for decision in self._decide():
                    self._recent.note(decision)
                    self._live.journal.decided(decision)
                    self._live.watchers.heard.decided(decision)
                    log.info("decided", decision=decision_line(decision), why=reason_of(decision))
                    if isinstance(decision, Bind):
                        self._live.claiming.add(decision.ticket.id)
                    tasks.create_task(self._carry_out(decision))
                if log.is_enabled_for(logging.DEBUG):
                    log.debug("sched", state=state_line(self._live.sched))
                try:
                    async with asyncio.timeout(TICK_SECONDS):
                        await wake.wait()
                except TimeoutError:
                    pass

    def _decide(self) -> list[Noted]:
        """What the core decides. Where its books are broken, that is told, and the rest goes on.

        An assertion of the core is a fault of ours. It must be loud, and cost no more than the
        devices that it names: all others, and all that is queued, are as good as before.
        """
        sched, now = self._live.sched, self._clock()
        decisions: list[Noted] = []
        pending: list[Decision] = []
        try:
            if now >= self._next_tick:
                self._next_tick = now + TICK_SECONDS
                self._live.did(sched.tick(now))
                check_integrity(sched)
            pending = self._live.decided()
            while pending:
                decision = pending.pop(0)
                if isinstance(decision, Boundary):
                    # Joins take effect at the agent's next step; nothing else has to wait for it.
                    pending += self._live.boundary(decision.device_id, now)
                else:
                    decisions.append(decision)
            self._broken = ""
        except AssertionError as error:
            why = str(error)
            if why != self._broken:
                log.critical("core broken", why=why, state=state_line(sched), exc_info=error)
            self._broken = why
            self._live.did(pending)
            words = set(re.split(r"[:\s]+", why))
            for device in list(sched.devices.values()):
                if words & {device.id, *device.running}:
                    self._fleet.distrust(device.id, "the scheduler lost count of it")
        return decisions

    async def _carry_out(self, decision: Decision) -> None:
        try:
            match decision:
                case Bind():
                    await self._bind(decision)
                case Preempt(ticket):
                    # One that is being claimed is not sent at all (_send). An agent that is
                    # away is told when it is back (fleet.py).
                    if row := self._live.running.get(ticket.id):
                        self._lines.preempt(row)
                case Load(model, device_id, evict):
                    for other in evict:  # the agent does one after another
                        self._lines.unload(device_id, other)
                    self._lines.load(device_id, model)
                case Unload(model, device_id):
                    self._lines.unload(device_id, model)
                case Hold():
                    self._lines.keep_in_host_memory(decision.node, decision.wanted)
        except Exception as error:
            log.error("decision not carried out", decision=decision_line(decision), exc_info=error)
            if isinstance(decision, Bind):  # sysmon finds it in the database
                self._unclaimed(decision.ticket.id)

    async def _bind(self, decision: Bind) -> None:
        ticket, device_id = decision.ticket, decision.device_id
        row, ours = await self._claim(ticket.id, device_id)
        if ticket.id not in self._live.claiming:
            return  # it ended meanwhile, and memory knows
        if row is None:
            self._unclaimed(ticket.id)
        elif ours:
            self._live.claimed(row)
            await self._send(row)
        elif row.state is State.QUEUED:
            self._live.requeued(row, DISAGREED_SECONDS)
        else:
            self._live.claiming.discard(ticket.id)
            self._live.preempting.discard(ticket.id)
            await self._outcomes.stands(row)

    def _unclaimed(self, generation_id: str) -> None:
        self._live.claiming.discard(generation_id)
        self._live.preempting.discard(generation_id)
        self._live.released(generation_id)

    async def _claim(self, generation_id: str, device_id: str) -> tuple[Generation | None, bool]:
        """The row as it stands after the claim, and whether it runs by that claim."""
        try:
            if row := await self._store.claim(generation_id, device_id):
                failpoint("claim_committed")
                return row, True
        except UnavailableError:
            # It may be claimed or not: what stands now counts. Who else would have claimed it?
            row = await persist(lambda: self._store.look(generation_id))
            return row, bool(row and row.state is State.RUNNING and row.device == device_id)
        return await persist(lambda: self._store.look(generation_id)), False

    async def _send(self, row: Generation) -> None:
        assert row.lease_token is not None
        if row.id in self._live.preempting:  # decided while it was claimed
            await self._outcomes.preempted(row.id, row.lease_token, 0)
            return
        alone = await self._outcomes.suspected(row)
        device = self._live.sched.devices.get(row.device)
        ticket = device.running.get(row.id) if device is not None else None
        if ticket is None or not self._lines.run(row, ticket.rows, alone=alone):
            await self._outcomes.lost(row.id, row.lease_token)
        elif row.id in self._live.cancelling:
            self._lines.cancel(row)

    def cancel(self, generation_id: str) -> None:
        """Tell the agent to stop a running generation at its next step, now or when it is back."""
        if not self._live.knows(generation_id):
            return  # it ended before the wish was acknowledged
        self._live.cancelling.add(generation_id)
        if row := self._live.running.get(generation_id):
            self._lines.cancel(row)
