"""Plans and usage at the leader: plans are taken up, kept in step with the database, and held to;
what was used becomes sums."""

from __future__ import annotations

import asyncio

import structlog

from atelier.errors import UnavailableError
from atelier.plan import Plan
from atelier.tenant_store import AT_ONCE, StoredPlan, TenantStore
from scheduler.live import Live

log = structlog.get_logger()

ROLL_UP_SECONDS = 10.0


class Tenants:
    """One, of the leader."""

    def __init__(self, store: TenantStore, live: Live, house_plan: Plan) -> None:
        self.store = store
        self.house_plan = live.limits.default = house_plan
        self._live = live
        # Held from a statement until its plans hold: what was read before a plan was set would
        # otherwise take its place.
        self._in_step = asyncio.Lock()

    async def take_up(self) -> None:
        """To be called before anything is submitted.

        Raises:
            UnavailableError: the database is away.
        """
        async with self._in_step:
            plans = {one.tenant: one.plan for one in await self.store.plans()}
            self._live.limits.set_all(plans, self._live.now())

    def plan_of(self, tenant: str) -> Plan:
        """Its own, or the house's."""
        return self._live.limits.plan_of(tenant)

    async def set(self, tenant: str, plan: Plan) -> StoredPlan:
        """It holds once it is durable."""
        async with self._in_step:
            stored = await self.store.set_plan(tenant, plan)
            self._live.limits.set(tenant, stored.plan, self._live.now())
        return stored

    async def unset(self, tenant: str) -> None:
        async with self._in_step:
            await self.store.unset_plan(tenant)
            self._live.limits.set(tenant, None, self._live.now())

    async def run(self) -> None:
        """Make sums until cancelled, and follow plans whose writing was not acknowledged."""
        while True:
            await asyncio.sleep(ROLL_UP_SECONDS)
            try:
                await self.take_up()
                more = True
                while more:
                    more = await self.store.roll_up() == AT_ONCE
            except UnavailableError as error:
                log.warning("usage not summed", error=str(error.__cause__ or error))
