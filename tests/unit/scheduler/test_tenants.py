"""Plans at the leader stay in step with the database, whatever is read meanwhile."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.plan import UNBOUNDED, Plan
from atelier.tenant_store import StoredPlan
from scheduler.limits import Limits
from scheduler.tenants import Tenants

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = Plan(max_queued=1), Plan(max_queued=2)


class SlowStore:
    """What is read is told only when `told` is set, as it was when it was read."""

    def __init__(self) -> None:
        self.stored = {"acme": OLD}
        self.told = asyncio.Event()

    async def plans(self) -> list[StoredPlan]:
        found = [StoredPlan(tenant, plan, NOW) for tenant, plan in self.stored.items()]
        await self.told.wait()
        return found

    async def set_plan(self, tenant: str, plan: Plan) -> StoredPlan:
        self.stored[tenant] = plan
        return StoredPlan(tenant, plan, NOW)

    async def unset_plan(self, tenant: str) -> None:
        del self.stored[tenant]


@pytest.mark.parametrize("after", [NEW, None])
async def test_a_plan_written_while_plans_are_read_is_not_forgotten(after: Plan | None) -> None:
    live: Any = SimpleNamespace(limits=Limits(), now=lambda: 0.0)
    store: Any = SlowStore()
    tenants = Tenants(store, live, UNBOUNDED)
    reading = asyncio.create_task(tenants.take_up())
    await asyncio.sleep(0)  # it has read, and is told nothing yet
    writes = tenants.set("acme", after) if after else tenants.unset("acme")
    writing: asyncio.Task[object] = asyncio.create_task(writes)
    for _ in range(5):
        await asyncio.sleep(0)  # far enough to write and to hold, if nothing keeps it
    store.told.set()
    await asyncio.gather(reading, writing)
    assert tenants.plan_of("acme") == (after or UNBOUNDED)
