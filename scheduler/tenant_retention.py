"""Tenants whose generations are kept for less long than everybody's: what is past goes by rows, a
few at a time, its files first, so that whoever is cut off in between finds them the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import structlog

from atelier.generation_store import GenerationStore
from atelier.object_keys import checkpoint_key
from atelier.stores import Stores

log = structlog.get_logger()

AT_ONCE = 100
PAUSE_SECONDS = 0.1  # between two lots


class TenantRetention:
    """One, of the leader; `drop` is called by History."""

    def __init__(
        self,
        store: GenerationStore,
        files: Stores | None,
        days_of: Mapping[str, int],
        *,
        at_once: int = AT_ONCE,
    ) -> None:
        """
        Args:
            files: None leaves them to `atelier sweep`.
            days_of: from the submit on; by tenant.
        """
        self._store = store
        self._files = files
        self._days_of = days_of
        self._at_once = at_once

    async def drop(self) -> int:
        """Forget all that is past and has ended, with its request_ids; how many.

        Raises:
            UnavailableError: the database or the object store is away.
        """
        dropped = 0
        for tenant, days in self._days_of.items():
            while past := await self._store.past(tenant, days, limit=self._at_once):
                if self._files:
                    keys = [checkpoint_key(tenant, id_) for id_ in past]
                    for of_one in past.values():
                        keys += of_one
                    await asyncio.to_thread(_delete, self._files, keys)
                erased = await self._store.erase(tenant, [*past], keep_keys=False)
                if not erased:
                    break
                dropped += len(erased)
                await asyncio.sleep(PAUSE_SECONDS)
        if dropped:
            log.info("tenants' generations dropped", count=dropped)
        return dropped


def _delete(files: Stores, keys: Collection[str]) -> None:
    for key in keys:
        files.delete(key)
