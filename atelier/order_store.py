"""Operators' orders in PostgreSQL: which devices are drained, and which models are pinned where.

They hold until they are taken back, whether the device is there or not. Every write can be sent
again. Errors are those of `Database.rows`.
"""

from __future__ import annotations

from dataclasses import dataclass

from atelier.database import Database


@dataclass(frozen=True)
class StandingOrders:
    """All of them."""

    drained: dict[str, str]  # device -> why
    pinned: dict[str, set[str]]  # device -> models


class OrderStore:
    """One process writes them: the scheduler."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> StandingOrders:
        """As they stand, in one snapshot."""
        drained, pinned = dict[str, str](), dict[str, set[str]]()
        for row in await self._database.rows("standing_orders"):
            if row["model"] is None:
                drained[row["device_id"]] = row["reason"]
            else:
                pinned.setdefault(row["device_id"], set()).add(row["model"])
        return StandingOrders(drained, pinned)

    async def drain(self, device_id: str, reason: str) -> None:
        await self._database.rows("drain", device_id=device_id, reason=reason)

    async def undrain(self, device_id: str) -> None:
        await self._database.rows("undrain", device_id=device_id)

    async def pin(self, device_id: str, model: str) -> None:
        await self._database.rows("pin", device_id=device_id, model=model)

    async def unpin(self, device_id: str, model: str) -> bool:
        """Whether it was pinned."""
        return bool(await self._database.rows("unpin", device_id=device_id, model=model))
