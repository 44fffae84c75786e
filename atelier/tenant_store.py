"""Plans of tenants and their usage in PostgreSQL (migration 0012, sql/tenants.sql). Every write can
be sent again. Errors are those of `Database.rows`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date, datetime

from atelier.database import Database
from atelier.generation import Priority
from atelier.plan import Plan

AT_ONCE = 10_000  # entries that become sums in one statement


@dataclass(frozen=True)
class StoredPlan:
    """A tenant's own plan."""

    tenant: str
    plan: Plan
    update_time: datetime


@dataclass(frozen=True)
class Usage:
    """Of one model on one day (UTC), of what ended on it; bytes are those of its results."""

    day: date
    model: str
    generations: int
    succeeded: int
    gpu_seconds: float
    pictures: int
    videos: int
    bytes: int


class TenantStore:
    """As KeyStore: the scheduler's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def plans(self) -> list[StoredPlan]:
        """Of all tenants that have one of their own, by name."""
        rows = await self._database.rows("plans")
        return [StoredPlan(r["tenant"], plan_of(r["plan"]), r["update_time"]) for r in rows]

    async def set_plan(self, tenant: str, plan: Plan) -> StoredPlan:
        [row] = await self._database.rows("set_plan", tenant=tenant, plan=json.dumps(asdict(plan)))
        return StoredPlan(tenant, plan_of(row["plan"]), row["update_time"])

    async def unset_plan(self, tenant: str) -> None:
        """It has the house's again. None is no error."""
        await self._database.rows("unset_plan", tenant=tenant)

    async def roll_up(self) -> int:
        """Make sums of some entries; how many there were."""
        [row] = await self._database.rows("roll_up_usage", limit=AT_ONCE)
        return int(row["taken"])

    async def usage(self, tenant: str, first: date, last: date, model: str = "") -> list[Usage]:
        """From one day to another, with both, the latest first; of one model, or of all."""
        rows = await self._database.rows(
            "read_usage", tenant=tenant, first=first, last=last, model=model
        )
        return [Usage(**row) for row in rows]


def plan_of(values: dict[str, object]) -> Plan:
    """A plan as it was stored; what a later version wrote beside is left out."""
    known = {name: values[name] for name in Plan.__dataclass_fields__ if name in values}
    known["highest_priority"] = Priority(str(known.get("highest_priority", Priority.INTERACTIVE)))
    return Plan(**known)  # type: ignore[arg-type]
