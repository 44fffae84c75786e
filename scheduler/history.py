"""Keeps the days of the store (docs/store.md): makes the tables of days to come, drops those that
are older than the retention. What may go is decided in SQL, by the database's clock, and each
statement asks again for what makes it right.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from atelier.database import Database
from atelier.errors import UnavailableError
from scheduler.tenant_retention import TenantRetention

log = structlog.get_logger()

AHEAD_DAYS = 2  # a gateway's clock may be ahead, and a scheduler may stand still over a midnight
LOOK_SECONDS = 600.0
# A table has a sixth of the retention, so that there are few: what lists or looks for what is
# unfinished plans for all of them, a tenth of a millisecond each.
TABLES = 6
FOR_EVER_DAYS = 30  # in a table, where nothing is dropped
KEYS_AT_ONCE = 5_000
PAUSE_SECONDS = 0.1  # between two lots of keys


class History:
    """One, of the leader."""

    def __init__(
        self, database: Database, retention_days: int, tenants: TenantRetention | None = None
    ) -> None:
        """`retention_days`: 0 keeps everything; `tenants`: those that have less."""
        self._database = database
        self._tenants = tenants
        self._retention_days = retention_days
        self.span_days = max(1, retention_days // TABLES) if retention_days else FOR_EVER_DAYS

    async def run(self) -> None:
        """Look every ten minutes, until cancelled."""
        while True:
            try:
                await self.make_days()
                await self.drop_days()
                if self._tenants:
                    await self._tenants.drop()
            except UnavailableError as error:  # away, or a day is being read: the next time
                log.warning("days not kept", error=str(error.__cause__ or error))
            await asyncio.sleep(LOOK_SECONDS)

    async def make_days(self) -> int:
        """To be called before anything is submitted; how many were made.

        Raises:
            UnavailableError: the database is away.
        """
        [row] = await self._database.rows("make_days", ahead=AHEAD_DAYS, span=self.span_days)
        return int(row["made"])

    async def drop_days(self) -> list[str]:
        """Drop every day that may go, its keys first: a key then is free a little before its
        generation is gone, and never points to one that is.

        Raises:
            UnavailableError: the database is away, or somebody reads a day for long.
        """
        dropped: list[str] = []
        while self._retention_days:
            days = await self._database.rows("past_day", retention_days=self._retention_days)
            if not days:
                break
            name, first, beyond = days[0]["name"], days[0]["first"], days[0]["beyond"]
            await self._forget_keys(first, beyond)
            [row] = await self._database.rows(
                "drop_day", name=name, retention_days=self._retention_days
            )
            if not row["dropped"]:
                break
            log.info("day dropped", day=name)
            dropped.append(name)
        return dropped

    async def _forget_keys(self, first: UUID, beyond: UUID) -> None:
        forgotten = KEYS_AT_ONCE
        while forgotten == KEYS_AT_ONCE:
            rows = await self._database.rows(
                "forget_keys", first=first, beyond=beyond, limit=KEYS_AT_ONCE
            )
            forgotten = len(rows)
            await asyncio.sleep(PAUSE_SECONDS)
