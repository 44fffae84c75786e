"""API keys in PostgreSQL (migration 0006, sql/identity.sql). Every write can be sent again. Errors
are those of `Database.rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from atelier.database import Database
from atelier.errors import NotFoundError, ResourceExhaustedError

MOST_KEYS = 1_000  # of a tenant, with those that ended


@dataclass(frozen=True)
class StoredKey:
    """A key, and what of its secret is kept. `last_use_time` is exact to the hour."""

    id: str
    tenant: str
    secret_hash: bytes = field(repr=False)
    scopes: tuple[str, ...]
    description: str = ""
    create_time: datetime | None = None  # None: not written yet
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    last_use_time: datetime | None = None


class KeyStore:
    """As WebhookStore: the scheduler's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(
        self, key: StoredKey, *, replaces: str = "", overlap_seconds: float = 0.0
    ) -> StoredKey:
        """Write a key; the one that it replaces ends after the overlap.

        Raises:
            ResourceExhaustedError: its tenant has too many.
        """
        rows = await self._database.rows(
            "insert_key",
            id=key.id,
            tenant=key.tenant,
            secret_hash=key.secret_hash,
            scopes=list(key.scopes),
            description=key.description,
            expire_time=key.expire_time,
            replaces=replaces,
            overlap_seconds=overlap_seconds,
            most=MOST_KEYS,
        )
        if rows := rows or await self._database.rows("read_key", id=key.id):
            return _key(rows[0])
        raise ResourceExhaustedError(
            f"tenant {key.tenant} has {MOST_KEYS} keys already, with those that ended",
            reason="TOO_MANY_KEYS",
        )

    async def read(self, key_id: str) -> StoredKey:
        """Raises NotFoundError: there is none."""
        return _one(await self._database.rows("read_key", id=key_id), key_id)

    async def use(self, key_id: str) -> StoredKey:
        """As `read`, for a call that showed it: notes the hour."""
        key = await self.read(key_id)
        await self._database.rows("use_key", id=key_id)
        return key

    async def scan(self, tenant: str, limit: int) -> list[StoredKey]:
        """A tenant's, or everybody's where it is empty; the newest first."""
        rows = await self._database.rows("scan_keys", tenant=tenant, limit=limit)
        return [_key(row) for row in rows]

    async def revoke(self, key_id: str) -> StoredKey:
        """End it now; one that was revoked stays so. Raises NotFoundError: there is none."""
        return _one(await self._database.rows("revoke_key", id=key_id), key_id)


def _one(rows: list[Mapping[str, Any]], key_id: str) -> StoredKey:
    if not rows:
        raise NotFoundError(f"there is no key {key_id}")
    return _key(rows[0])


def _key(row: Mapping[str, Any]) -> StoredKey:
    values = {one.name: row[one.name] for one in fields(StoredKey)}
    return StoredKey(**{**values, "scopes": tuple(row["scopes"])})
