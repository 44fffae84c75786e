"""The outbox as workers see it: lanes, what is due in them, and what came of it (sql/webhooks.sql).
Errors are those of `Database.rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from atelier.database import Database
from webhooks.schedule import Answer

KEPT_DAYS = 7  # after their end, for callers to look at and to have delivered again
FORGET_AT_ONCE = 1_000


@dataclass(frozen=True)
class Lane:
    """All that goes to one receiver, leased by one worker at a time."""

    name: str
    lease_token: int
    failures: int  # in a row, up to now


@dataclass(frozen=True)
class Due:
    """A delivery that is due."""

    id: str
    tenant: str
    generation_id: str  # "": it is about none
    webhook_id: str | None
    kind: str
    url: str
    enabled: bool
    secrets: Sequence[str]
    data: Mapping[str, Any]
    attempts: int
    create_time: datetime
    trace_parent: str  # of the generation's caller
    tries: int  # attempts at the generation


class Outbox:
    """Several workers may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, limit: int, lease_seconds: float) -> tuple[list[Lane], bool]:
        """Lanes in which something is due and nobody works; whether to look again at once."""
        rows = await self._database.rows("claim_lanes", limit=limit, lease_seconds=lease_seconds)
        lanes = [Lane(row["lane"], row["lease_token"], row["failures"]) for row in rows]
        leased = [lane for lane in lanes if lane.lease_token]
        return leased, len(leased) < len(lanes)

    async def due(self, lane: Lane, limit: int) -> list[Due]:
        """What is due in it, in order."""
        rows = await self._database.rows("due_deliveries", lane=lane.name, limit=limit)
        return [
            Due(
                str(row["id"]),
                row["tenant"],
                str(row["generation_id"] or ""),
                str(row["webhook_id"]) if row["webhook_id"] else None,
                row["type"],
                row["target"],
                row["enabled"],
                row["secrets"] or (),
                row["data"],
                row["attempts"],
                row["create_time"],
                row["trace_parent"],
                row["tries"],
            )
            for row in rows
        ]

    async def attempted(self, due: Due, answer: Answer, again_seconds: float | None) -> None:
        """Note an attempt; nothing where another worker has noted one meanwhile."""
        await self._database.rows(
            "attempted",
            id=due.id,
            attempts=due.attempts,
            status=answer.status,
            detail=answer.detail,
            delivered=answer.delivered,
            again_seconds=again_seconds,
        )

    async def gone(self, webhook_id: str) -> None:
        """Disable a webhook that says it is gone."""
        await self._database.rows("webhook_is_gone", id=webhook_id)

    async def release(self, lane: Lane, failures: int, closed_seconds: float) -> None:
        """Let others work in it, after a while; nothing where they do already."""
        await self._database.rows(
            "release_lane",
            lane=lane.name,
            lease_token=lane.lease_token,
            failures=failures,
            closed_seconds=closed_seconds,
        )

    async def age(self) -> tuple[int, float]:
        """How many deliveries wait for anything; seconds for which one could have been made."""
        [row] = await self._database.rows("outbox_age")
        return row["waiting"], row["oldest_seconds"]

    async def forget(self) -> int:
        """Drop what ended long ago; how many deliveries."""
        [row] = await self._database.rows("forget_deliveries", days=KEPT_DAYS, limit=FORGET_AT_ONCE)
        return int(row["forgotten"])
