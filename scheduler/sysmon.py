"""Looks after what nobody reports: agents that stay away, deadlines that pass, and differences
between memory and the database, which a lost acknowledgement leaves behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from atelier.database import in_pieces
from atelier.errors import UnavailableError
from atelier.generation_store import GenerationStore
from scheduler.background import Background
from scheduler.fleet import Fleet
from scheduler.live import Live
from scheduler.outcomes import Outcomes

log = structlog.get_logger()

TICK_SECONDS = 0.5
RECONCILE_SECONDS = 5.0
EXPIRE_AGAIN_SECONDS = 0.5  # the database's clock may be behind ours


class Sysmon:
    """Ticks until cancelled."""

    def __init__(
        self,
        store: GenerationStore,
        live: Live,
        fleet: Fleet,
        outcomes: Outcomes,
        background: Background,
        *,
        grace_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._live = live
        self._fleet = fleet
        self._outcomes = outcomes
        self._background = background
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._agents_welcome_since: float | None = None

    def serving(self) -> None:
        """Agents can come from now on; the grace of those that were here before begins."""
        self._agents_welcome_since = self._clock()

    def silent(self) -> None:
        """No agent can come: that none does says nothing about any."""
        self._agents_welcome_since = None

    async def run(self) -> None:
        reconciled = self._clock()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._clock()
            try:
                await self.tick(now, datetime.now(UTC))
                if now - reconciled >= RECONCILE_SECONDS:
                    await self.reconcile()
                    reconciled = now
            except UnavailableError as error:
                log.warning("database away", error=str(error))

    async def tick(self, now: float, wall: datetime) -> None:
        """Give up devices whose agent stayed away, and their attempts; expire what is overdue."""
        if (welcome_since := self._agents_welcome_since) is not None:
            for device_id, since in list(self._fleet.lost_since.items()):
                if now - max(since, welcome_since) >= self._grace_seconds:
                    self._fleet.give_up(device_id)
        if welcome_since is not None and now - welcome_since >= self._grace_seconds:
            for row in list(self._live.running.values()):
                orphan = row.device not in self._live.sched.devices
                if orphan and row.lease_token is not None:
                    self._background.spawn(self._outcomes.lost(row.id, row.lease_token))
        overdue = self._live.overdue(wall)
        while overdue:
            again = wall + timedelta(seconds=EXPIRE_AGAIN_SECONDS)
            try:
                done = await self._outcomes.expired(overdue[-1])
            except UnavailableError:
                for generation_id in overdue:
                    self._live.look_again(generation_id, again)
                raise
            if not done:
                self._live.look_again(overdue[-1], again)
            overdue.pop()

    async def reconcile(self) -> None:
        """Look for rows that differ from memory, and follow them; all others cost one short read.

        Raises:
            UnavailableError: the database is away.
        """
        watchers = self._live.watchers
        known = watchers.ids()
        standing = await self._store.standing()
        async for generation_id in in_pieces(standing):
            if not self._live.agrees(generation_id, standing[generation_id]):
                await self._follow(generation_id)
        async for generation_id in in_pieces(known):
            if generation_id not in standing and watchers.is_live(generation_id):
                await self._follow(generation_id)

    async def _follow(self, generation_id: str) -> None:
        row = await self._store.look(generation_id)
        if row is None or not self._differs(generation_id, row.lease_token, row.state.final):
            return
        log.warning("memory differs", generation_id=generation_id, state=row.state)
        await self._outcomes.stands(row)

    def _differs(self, generation_id: str, lease_token: int | None, final: bool) -> bool:
        if final:
            return self._live.watchers.is_live(generation_id)
        return not self._live.agrees(generation_id, lease_token)
