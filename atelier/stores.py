"""The object store as everybody sees it: a primary, and a secondary for when it is slow or failing.

Where a result lies is in its key: what went into the secondary is called so (`object_keys`), and
the published key is the one it was stored under, so nobody else has to know. Pictures that were
brought and checkpoints are called the same in both; they are looked for in both.

What was written to the secondary is copied back under its very key by the agents (`copy_back`), and
taken out of the secondary a day after it was seen in the primary, so a key that says `secondary`
may lie in either: it is looked for in the secondary first. In every order of crash there is a copy:
it appears in the primary whole or not at all, and only what was found there is ever deleted.

Refused: a column for the store (every reader would need the database), two writes of everything
(twice the traffic, for ever), and URLs of the secondary for good (it could never be emptied).

A write that the primary failed by time-out may have been taken in the end. Its key is another's
than the one that is published, so it is an orphan, which `sweep` deletes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from threading import Event, Thread
from typing import Self, TypeVar

import structlog
from opentelemetry.metrics import Meter

from atelier.config import ObjectStoreSettings
from atelier.errors import NotFoundError, UnavailableError
from atelier.instruments import PRIMARY_AWAY, SECONDARY_WRITES, STORE_DURATION
from atelier.metrics import histogram, observe
from atelier.object_keys import in_secondary, names_secondary
from atelier.object_store import PART_BYTES, ObjectStore, Stored
from atelier.s3_client import Patience
from atelier.store_breaker import Breaker

log = structlog.get_logger()

T = TypeVar("T")

CONNECT_SECONDS = 2.0
SLOW_SHARE = 0.5  # of the patience: a call that takes longer is a slow one
SECONDARY = Patience(tries=3, again_after_timeout=False)
PROBE_SECONDS = 3.0
PROBE_KEY = "probe"
MOST_MOVED = 10_000  # keys of which we know that they were copied back; 2 MB


class Stores:
    """As ObjectStore, from any thread. Writes return the key that they went under."""

    def __init__(
        self,
        primary: ObjectStore,
        secondary: ObjectStore | None = None,
        *,
        slow_seconds: float = 2.5,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self.primary = primary
        self.secondary = secondary
        self._breaker = Breaker(slow_seconds)
        self._probe_seconds = probe_seconds
        self._closing = Event()
        self._moved: set[str] = set()
        self.failovers = 0  # writes that went to the secondary

    @classmethod
    def from_settings(cls, settings: ObjectStoreSettings) -> Self:
        """Those that the settings name; opens no connection yet."""
        if settings.secondary is None:
            return cls(ObjectStore.at(settings.primary))
        seconds = settings.s3_patience_seconds
        brief = Patience(min(CONNECT_SECONDS, seconds), seconds, 2, again_after_timeout=False)
        return cls(
            ObjectStore.at(settings.primary, brief),
            ObjectStore.at(settings.secondary, SECONDARY),
            slow_seconds=SLOW_SHARE * seconds,
        )

    @property
    def is_open(self) -> bool:
        """Whether the primary is left alone for now."""
        return self._breaker.is_open

    def measure(self, meter: Meter) -> None:
        """Tell how long calls take, whether the primary is left alone, and how much went to the
        secondary."""
        observe(meter, PRIMARY_AWAY, lambda: [(int(self.is_open), {})])
        observe(meter, SECONDARY_WRITES, lambda: [(self.failovers, {})])
        took = histogram(meter, STORE_DURATION)
        self.primary.measure(took, "primary")
        if self.secondary:
            self.secondary.measure(took, "secondary")

    def close(self) -> None:
        """Probe no more."""
        self._closing.set()

    def put(self, key: str, data: bytes, content_type: str) -> str:
        """As ObjectStore.put."""

        def put(store: ObjectStore, key: str) -> str:
            if store is not self.primary or len(data) > PART_BYTES:
                return store.put(key, data, content_type)
            return self._timed(lambda: store.put(key, data, content_type))

        return self._write("put", key, put)

    def put_stream(
        self, key: str, pieces: Callable[[], Iterable[bytes]], content_type: str
    ) -> Stored:
        """As ObjectStore.put_stream. Where the primary fails in the middle, the secondary is given
        all of it, from the first piece: `pieces` is called up to twice for the primary, and up to
        three times for the secondary."""

        def put(store: ObjectStore, key: str) -> Stored:
            given = self._watched(pieces) if store is self.primary else pieces
            return store.put_stream(key, given, content_type)

        return self._write("put_stream", key, put)

    def get(self, key: str, *, most_bytes: int | None = None) -> bytes:
        """As ObjectStore.get; NotFoundError only where every store says so that may have it."""
        return self._read(key, lambda store: store.get(key, most_bytes=most_bytes))

    def has(self, key: str) -> bool:
        """Whether it is known to lie there. False also where the primary is left alone and the
        secondary has none: then put it again.

        Raises:
            UnavailableError: no store says.
        """
        if self.secondary is None or not self.is_open:
            try:
                if self._asked(lambda: self.primary.has(key)):
                    return True
            except UnavailableError:
                if self.secondary is None:
                    raise
        return self.secondary is not None and self.secondary.has(key)

    def delete(self, key: str) -> None:
        """Delete what a write of `key` left, wherever it went; of a primary that is left alone
        nothing is asked.

        Raises:
            UnavailableError: something may be left.
        """
        away: UnavailableError | None = None
        if self.secondary is not None:
            try:
                self.secondary.delete(in_secondary(key))
            except UnavailableError as error:
                away = error
        if self.is_open:
            away = UnavailableError("the object store is away", reason="OBJECT_STORE_UNAVAILABLE")
        else:
            self._asked(lambda: self.primary.delete(key))
        if away:
            raise away

    def calls_to_presign(self, key: str) -> bool:
        """Whether `presign` has to ask a store; then do not call it on a loop."""
        return self.secondary is not None and names_secondary(key) and key not in self._moved

    def presign(self, key: str, expires_seconds: int) -> tuple[str, datetime]:
        """As ObjectStore.presign, for the store that has it."""
        return self._holder(key).presign(key, expires_seconds)

    def _write(self, what: str, key: str, write: Callable[[ObjectStore, str], T]) -> T:
        if self.secondary is None:
            return write(self.primary, key)
        skipped = self.is_open
        if not skipped:
            try:
                return write(self.primary, key)
            except UnavailableError:
                self._failed(what)
        try:
            made = write(self.secondary, in_secondary(key))
        except UnavailableError:
            if not skipped:
                raise
            log.warning("the secondary store failed, the primary is asked anyhow", call=what)
            return write(self.primary, key)
        self.failovers += 1
        log.info("stored in the secondary", call=what)
        return made

    def _read(self, key: str, read: Callable[[ObjectStore], T]) -> T:
        """From the first store that has it. The primary is asked last where it is left alone, but
        it is asked: there are troubles with writes only."""
        away: UnavailableError | None = None
        for store in self._order(key):
            try:
                return self._asked(partial(read, store)) if store is self.primary else read(store)
            except NotFoundError:
                continue
            except UnavailableError as error:
                away = error
        raise away or NotFoundError("no such object")

    def _order(self, key: str) -> list[ObjectStore]:
        if self.secondary is None:
            return [self.primary]
        if names_secondary(key):
            return [self.secondary, self.primary]
        if key.startswith("results/"):
            return [self.primary]
        both = [self.primary, self.secondary]
        return both[::-1] if self.is_open else both

    def _holder(self, key: str) -> ObjectStore:
        if self.secondary is None or not self.calls_to_presign(key):
            return self.primary
        try:
            if self.secondary.has(key):
                return self.secondary
        except UnavailableError:
            try:
                return (
                    self.primary if self._asked(lambda: self.primary.has(key)) else self.secondary
                )
            except UnavailableError:
                return self.secondary
        # It is taken out of there only when it lies in the primary, where it stays.
        if len(self._moved) >= MOST_MOVED:
            self._moved.clear()
        self._moved.add(key)
        return self.primary

    def _asked(self, call: Callable[[], T]) -> T:
        """A call of the primary that is no write."""
        try:
            return self._timed(call)
        except UnavailableError:
            self._failed("read")
            raise

    def _timed(self, call: Callable[[], T]) -> T:
        began = time.monotonic()
        made = call()
        self._took(time.monotonic() - began)
        return made

    def _watched(self, pieces: Callable[[], Iterable[bytes]]) -> Callable[[], Iterator[bytes]]:
        """As `pieces`; the longest time that the store took before it wanted more is told at the
        end."""

        def watched() -> Iterator[bytes]:
            longest = 0.0
            for piece in pieces():
                given = time.monotonic()
                yield piece
                longest = max(longest, time.monotonic() - given)
            self._took(longest)

        return watched

    def _took(self, seconds: float) -> None:
        if self.secondary is not None and self._breaker.worked(seconds):
            self._opened("slow")

    def _failed(self, what: str) -> None:
        if self.secondary is not None and self._breaker.failed():
            self._opened(what)

    def _opened(self, why: str) -> None:
        log.error("the primary store is left alone: the secondary takes over", why=why)
        Thread(target=self._probe, name="store probe", daemon=True).start()

    def _probe(self) -> None:
        """Until the primary is back."""
        while not self._closing.wait(self._probe_seconds):
            began = time.monotonic()
            try:
                self.primary.put(PROBE_KEY, b"", "text/plain")
                seconds: float | None = time.monotonic() - began
            except UnavailableError:
                seconds = None
            if self._breaker.probed(seconds):
                log.info("the primary store is back")
                return
