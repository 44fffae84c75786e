"""Results out: presigned URLs, and inline bytes where they are small and asked for."""

from __future__ import annotations

import asyncio
from datetime import datetime

import structlog

from atelier.errors import NotFoundError, UnavailableError
from atelier.object_keys import checkpoint_key
from atelier.stores import Stores
from atelier.v1 import generation_pb2 as pb

log = structlog.get_logger()

MAX_INLINE_BYTES = 2**20
INLINE_SECONDS = 10.0  # for each
MAX_INLINE_TOTAL = 3 * 2**20  # below gRPC's 4 MiB, which every client has by default


class Results:
    """Completes the results of a generation for its caller."""

    def __init__(self, store: Stores, url_lifetime_seconds: int) -> None:
        self._store = store
        self._lifetime = url_lifetime_seconds

    async def complete(self, generation: pb.Generation, *, inline: bool) -> pb.Generation:
        """Fill in each result's URL, and its bytes where they are wanted; what is withheld has
        none. Returns its argument."""
        room = MAX_INLINE_TOTAL
        for result in generation.results:
            if result.withheld:
                continue
            result.url, expiry = await self._presign(result.object_key)
            if result.thumbnail_key:
                result.thumbnail_url, _ = await self._presign(result.thumbnail_key)
            result.url_expire_time.FromDatetime(expiry)
            if inline and result.size_bytes <= min(MAX_INLINE_BYTES, room):
                result.inline_data = await self._read(result.object_key)
                room -= result.size_bytes
        return generation

    async def delete(self, generation: pb.Generation) -> None:
        """Delete every file of a generation that has ended, in every store. What is gone already is
        no error, so that it can be done again.

        Raises:
            UnavailableError: something may be left.
        """
        keys = [checkpoint_key(generation.tenant, generation.id)]
        for result in generation.results:
            keys += [key for key in (result.object_key, result.thumbnail_key) if key]

        def delete() -> None:
            for key in keys:
                self._store.delete(key)

        await asyncio.to_thread(delete)

    async def _read(self, key: str) -> bytes:
        """Its bytes; none where they are gone, or their store is away: the URL is told all the
        same, and what became of the generation must be."""
        try:
            async with asyncio.timeout(INLINE_SECONDS):
                return await asyncio.to_thread(self._store.get, key)
        except (NotFoundError, UnavailableError, TimeoutError) as error:
            log.warning("result not told inline", key=key, reason=str(error) or "it took too long")
            return b""

    async def _presign(self, key: str) -> tuple[str, datetime]:
        if self._store.calls_to_presign(key):
            return await asyncio.to_thread(self._store.presign, key, self._lifetime)
        return self._store.presign(key, self._lifetime)
