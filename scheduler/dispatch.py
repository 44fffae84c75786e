"""Carries the core's decisions out: claims in the database, then commands to the agents.

Clear, look, wait, in that order, with nothing awaited between looking and deciding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from atelier.errors import UnavailableError
from atelier.generation_store import GenerationStore
from atelier.translate import generation_to
from atelier.v1 import agent_pb2 as pb
from scheduler.fleet import Fleet
from scheduler.live import Live
from scheduler.outcomes import Outcomes, persist
from scheduler.sched import Bind, Decision, Load, Unload
from scheduler.trace import decision_line, state_line

log = structlog.get_logger()

TICK_SECONDS = 0.5  # back-offs end and waits grow without anybody's event


class Dispatch:
    """The loop between the core and the world."""

    def __init__(
        self,
        store: GenerationStore,
        live: Live,
        fleet: Fleet,
        outcomes: Outcomes,
        *,
        epoch: int,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._live = live
        self._fleet = fleet
        self._outcomes = outcomes
        self._epoch = epoch
        self._clock = clock

    async def run(self) -> None:
        """Schedule whenever something changed, until cancelled."""
        wake = self._live.wake
        async with asyncio.TaskGroup() as tasks:
            while True:
                wake.clear()
                for decision in self._live.sched.schedule(self._clock()):
                    log.info("decided", decision=decision_line(decision))
                    tasks.create_task(self._carry_out(decision))
                self._live.sched.check_integrity()
                log.debug("sched", state=state_line(self._live.sched))
                try:
                    async with asyncio.timeout(TICK_SECONDS):
                        await wake.wait()
                except TimeoutError:
                    pass

    async def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Bind():
                await self._bind(decision)
            case Load(model, device_id, _):
                command = pb.LoadModel(device_id=device_id, model=model, epoch=self._epoch)
                self._fleet.send(device_id, pb.ConnectResponse(load_model=command))
            case Unload(model, device_id):
                unload = pb.UnloadModel(device_id=device_id, model=model, epoch=self._epoch)
                self._fleet.send(device_id, pb.ConnectResponse(unload_model=unload))

    async def _bind(self, decision: Bind) -> None:
        ticket, device_id = decision.ticket, decision.device_id
        try:
            row = await self._store.claim(ticket.id, device_id)
        except UnavailableError:
            # It may be claimed or not: read what stands, and take that.
            row = await persist(lambda: self._store.read(ticket.tenant, ticket.id))
            if row and row.lease_token is None and not row.state.final:
                self._live.sched.drop(ticket.id)
                self._live.requeued(row, delay_seconds=1.0)
                return
        if row is None or row.lease_token is None:  # cancelled or expired meanwhile
            self._live.released(ticket.id)
            return
        self._live.claimed(row)
        device = self._live.sched.devices.get(device_id)
        attempt = pb.Attempt(generation_id=row.id, lease_token=row.lease_token, device_id=device_id)
        run = pb.RunGeneration(attempt=attempt, epoch=self._epoch, generation=generation_to(row))
        still_bound = device is not None and ticket.id in device.running
        if not still_bound or not self._fleet.send(device_id, pb.ConnectResponse(run=run)):
            await self._outcomes.lost(row.id, row.lease_token)
        elif row.id in self._live.cancelling:
            self.cancel(row.id)

    def cancel(self, generation_id: str) -> None:
        """Tell the agent to stop a running generation at its next step."""
        self._live.cancelling.add(generation_id)
        row = self._live.running.get(generation_id)
        if row and row.lease_token is not None:
            attempt = pb.Attempt(
                generation_id=row.id, lease_token=row.lease_token, device_id=row.device
            )
            command = pb.CancelAttempt(attempt=attempt, epoch=self._epoch)
            self._fleet.send(row.device, pb.ConnectResponse(cancel=command))
