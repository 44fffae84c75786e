"""Deletes what nobody can ask for: files of attempts whose generation ended without naming them, or
is not known any more; checkpoints of what ended; and uploads in parts that never ended.

A file may go when it is older than a grace and its generation is final and does not name it. What
is final stays as it is, so no order of events makes that wrong later: the listing is read first,
the database after it. A generation is in the database before its first attempt begins, so one that
is not there was dropped by retention, or there never was one.

Refused is a database that knows none of the generations whose files lie here: that is another's.
Pictures that callers brought have no generation; the bucket's lifecycle is for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from atelier.object_keys import generation_of
from atelier.object_store import Listed, ObjectStore

log = structlog.get_logger()

LEAST_GRACE = timedelta(days=1)
PREFIXES = ("results/", "checkpoints/")


class WrongDatabaseError(Exception):
    """Nothing that lies here is known to the database; nothing was deleted."""


@dataclass
class Swept:
    """What a sweep found. `strange`: files that no attempt of ours writes; they are left.
    `uploads`: begun and never finished."""

    looked: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    strange: int = 0
    uploads: int = 0


async def sweep(
    store: ObjectStore,
    published: Callable[[Sequence[str]], Awaitable[Mapping[str, frozenset[str] | None]]],
    *,
    before: datetime,
    dry_run: bool = False,
) -> Swept:
    """Once through one store.

    Args:
        published: as GenerationStore.published.
        before: only what was stored earlier; at least LEAST_GRACE ago.
        dry_run: delete nothing.

    Raises:
        WrongDatabaseError: see there.
        UnavailableError: the store or the database is away. What was deleted is.
    """
    swept, proven, waiting = Swept(), False, list[Listed]()
    async for page in _pages(store):
        swept.looked += len(page)
        swept.strange += sum(not generation_of(one.key) for one in page)
        old = [one for one in page if one.modified < before and generation_of(one.key)]
        known = await published(sorted({generation_of(one.key) for one in old}))
        proven = proven or bool(known)
        waiting += [one for one in old if _is_orphan(one.key, known)]
        if proven:
            await _take(store, waiting, swept, dry_run=dry_run)
            waiting.clear()
    if waiting:
        raise WrongDatabaseError
    swept.uploads = await asyncio.to_thread(store.end_uploads, before, dry_run=dry_run)
    return swept


def _is_orphan(key: str, known: Mapping[str, frozenset[str] | None]) -> bool:
    generation = generation_of(key)
    if generation not in known:
        return True
    keys = known[generation]
    return keys is not None and key not in keys


async def _pages(store: ObjectStore) -> AsyncIterator[list[Listed]]:
    for prefix in PREFIXES:
        pages = store.pages(prefix)
        while page := await asyncio.to_thread(next, pages, None):
            yield page


async def _take(
    store: ObjectStore, orphans: Sequence[Listed], swept: Swept, *, dry_run: bool
) -> None:
    for one in orphans:
        log.info("orphan", key=one.key, size_bytes=one.size_bytes, stored=str(one.modified))
        if not dry_run:
            await asyncio.to_thread(store.delete, one.key)
        swept.orphans += 1
        swept.orphan_bytes += one.size_bytes
