"""What went into the secondary store goes back to the primary, in the background of every agent.

The secondary's own listing is the list of what is to be done, so nothing is remembered and nothing
can be forgotten: what is not in the primary is copied, under its key; what was found there a day
after it came is deleted from the secondary. By then no URL of the secondary is good any more that
was handed out before. Two agents that copy the same write the same bytes; pages are shuffled, so
that they seldom do. Checkpoints are left: they are of use for minutes only, and there the primary
may have the newer one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Event, Thread

import structlog

from atelier.errors import NotFoundError, UnavailableError
from atelier.object_store import Listed, ObjectStore
from atelier.stores import Stores

log = structlog.get_logger()

ROUND_SECONDS = 300.0  # between two looks; up to half as long again, by chance
KEPT = timedelta(days=1)  # in both stores, beyond the life of URLs; clocks may differ by hours
PREFIXES = ("results/", "inputs/")


class CopyBack:
    """One process's."""

    def __init__(
        self,
        stores: Stores,
        url_lifetime_seconds: int,
        *,
        round_seconds: float = ROUND_SECONDS,
        kept: timedelta = KEPT,
    ) -> None:
        self._stores = stores
        self._round_seconds = round_seconds
        self._kept = kept + timedelta(seconds=url_lifetime_seconds)
        self._rng: Random = secrets.SystemRandom()
        self._closing = Event()

    def start(self) -> None:
        """Begin, where there is a secondary."""
        if self._stores.secondary is not None:
            Thread(target=self._run, name="copy back", daemon=True).start()

    def close(self) -> None:
        """End between two objects, or two blocks of one."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(self._round_seconds * self._rng.uniform(1, 1.5)):
            if self._stores.is_open:
                continue
            try:
                self.round()
            except UnavailableError:
                log.warning("copying back ends early: a store is away")
            except Exception:
                log.exception("copying back failed")  # there is another round

    def round(self) -> tuple[int, int]:
        """Once through the secondary; how many were copied, and how many deleted there.

        Raises:
            UnavailableError: a store is away. What was done is done.
        """
        secondary = self._stores.secondary
        if secondary is None:
            return 0, 0
        copied = deleted = 0
        for prefix in PREFIXES:
            for page in secondary.pages(prefix):
                for one in self._rng.sample(page, len(page)):
                    if self._closing.is_set() or self._stores.is_open:
                        return copied, deleted
                    there = self._stores.primary.find(one.key)
                    if there is None:
                        copied += self._copy(secondary, one)
                    elif there.size_bytes != one.size_bytes:
                        log.error("the stores differ: nothing is copied or deleted", key=one.key)
                    elif there.modified < datetime.now(UTC) - self._kept:
                        secondary.delete(one.key)
                        deleted += 1
        if copied or deleted:
            log.info("copied back", copied=copied, deleted=deleted)
        return copied, deleted

    def _copy(self, secondary: ObjectStore, one: Listed) -> bool:
        found = secondary.find(one.key)
        if found is None:  # swept meanwhile
            return False

        def pieces() -> Iterator[bytes]:
            for block in secondary.blocks(one.key):
                if self._closing.is_set():
                    raise UnavailableError("closing")
                yield block

        try:
            self._stores.primary.put_stream(one.key, pieces, found.content_type)
        except NotFoundError:
            return False
        return True
