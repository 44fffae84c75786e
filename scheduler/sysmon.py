"""Looks after what nobody reports: agents that stay away, and deadlines that pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from scheduler.dispatch import Dispatch
from scheduler.fleet import Fleet
from scheduler.live import Live
from scheduler.outcomes import Outcomes

log = structlog.get_logger()

TICK_SECONDS = 0.5


class Sysmon:
    """Ticks until cancelled."""

    def __init__(
        self,
        live: Live,
        fleet: Fleet,
        outcomes: Outcomes,
        dispatch: Dispatch,
        *,
        grace_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._live = live
        self._fleet = fleet
        self._outcomes = outcomes
        self._dispatch = dispatch
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._started = clock()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self.tick(self._clock(), datetime.now(UTC))

    async def tick(self, now: float, wall: datetime) -> None:
        """Give up devices whose agent stayed away, and their attempts; expire what is overdue."""
        for device_id, since in list(self._fleet.lost_since.items()):
            if now - since >= self._grace_seconds and device_id in self._live.sched.devices:
                log.warning("device given up", device=device_id)
                self._live.sched.device_down(device_id)
                self._live.wake.set()
        for generation in list(self._live.running.values()):
            orphan = generation.device not in self._live.sched.devices
            if orphan and now - self._started >= self._grace_seconds and generation.lease_token:
                await self._outcomes.lost(generation.id, generation.lease_token)
        for generation_id in self._live.overdue(wall):
            running = generation_id in self._live.running
            if running:
                self._dispatch.cancel(generation_id)
            await self._outcomes.expired(generation_id)
