"""Operators' orders in PostgreSQL: which devices are drained, and which models are pinned where.

They hold until they are taken back, whether the device is there or not. Each is written under a
number of its own, and only while that is the latest: an order whose answer was lost is still under
way somewhere, and must not come to stand after the one that followed it. Errors are those of
`Database.rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atelier.database import Database
from atelier.errors import UnavailableError


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

    async def settle(self) -> StandingOrders:
        """As they stand, and as they will: no order from before can be written any more."""
        await self._database.rows("next_order")
        return await self.read()

    async def drain(self, device_id: str, reason: str) -> None:
        await self._write("drain", device_id=device_id, reason=reason)

    async def undrain(self, device_id: str) -> None:
        await self._write("undrain", device_id=device_id)

    async def pin(self, device_id: str, model: str) -> None:
        await self._write("pin", device_id=device_id, model=model)

    async def unpin(self, device_id: str, model: str) -> bool:
        """Whether it was pinned."""
        return await self._write("unpin", device_id=device_id, model=model)

    async def _write(self, order: str, **arguments: Any) -> bool:
        """Whether it changed anything.

        Raises:
            UnavailableError: also where another order took the next number meanwhile.
        """
        [row] = await self._database.rows("next_order")
        [told] = await self._database.rows(order, number=row["number"], **arguments)
        if not told["is_latest"]:
            raise UnavailableError("another order came in between; try again")
        return bool(told["changed"])
