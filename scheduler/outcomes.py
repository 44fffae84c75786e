"""How attempts end: the agent's word, the database's verdict, then memory follows.

Every write carries the attempt's lease_token. Where the guard refuses, the attempt was lost before,
and its outcome changes nothing. While the database is away, an outcome waits; it is never dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from atelier.errors import UnavailableError
from atelier.generation import MAX_ATTEMPTS, Failure, Generation, Provenance, Result, State
from atelier.generation_store import GenerationStore
from scheduler.live import Live

log = structlog.get_logger()

T = TypeVar("T")

RETRY_SECONDS = 0.5  # doubles with each attempt
LOST = "AGENT_LOST"
EXPIRED = Failure("DEADLINE_EXCEEDED", "EXPIRED", "its deadline passed before it was done")


async def persist(write: Callable[[], Awaitable[T]]) -> T:
    """Write, again and again while the database is away.

    A write whose acknowledgement was lost is refused when it is sent again: re-read, then.
    """
    pause = 0.2
    while True:
        try:
            return await write()
        except UnavailableError as error:
            log.warning("database away, will write again", pause_seconds=pause, error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)


class Outcomes:
    """Ends attempts. Each method returns whether the outcome was taken."""

    def __init__(self, store: GenerationStore, live: Live) -> None:
        self._store = store
        self._live = live

    async def succeeded(
        self, generation_id: str, token: int, results: Sequence[Result], by: Provenance
    ) -> bool:
        row = await persist(lambda: self._store.publish(generation_id, token, results, by))
        return await self._ended(generation_id, token, row)

    async def cancelled(self, generation_id: str, token: int) -> bool:
        """Its agent stopped it. Where no cancel was asked for, it was stopped as lost."""
        row = await persist(lambda: self._store.cancel_running(generation_id, token))
        return await self._ended(generation_id, token, row)

    async def failed(
        self, generation_id: str, token: int, failure: Failure, *, retryable: bool
    ) -> bool:
        """Try again where that may help and attempts are left; else FAILED with the reason."""
        running = self._live.holds(generation_id, token)
        attempt = running.attempt if running else MAX_ATTEMPTS
        if retryable and attempt < MAX_ATTEMPTS:
            delay = 0.0 if failure.reason == LOST else RETRY_SECONDS * 2**attempt
            return await self.requeue(generation_id, token, failure.reason, delay)
        row = await persist(lambda: self._store.fail(generation_id, token, failure))
        return await self._ended(generation_id, token, row)

    async def requeue(
        self, generation_id: str, token: int, reason: str, delay_seconds: float
    ) -> bool:
        """Back to the queue; CANCELLED where its caller no longer wants it."""
        row = await persist(lambda: self._store.requeue(generation_id, token, reason))
        if row is None:
            return await self.cancelled(generation_id, token)
        log.info("requeued", generation_id=generation_id, reason=reason, attempt=row.attempt)
        if self._live.holds(generation_id, token):
            self._live.requeued(row, delay_seconds)
        return True

    async def lost(self, generation_id: str, token: int) -> None:
        """Its agent is gone, or came back without it."""
        why = Failure("UNAVAILABLE", LOST, "its agent was lost, again and again")
        await self.failed(generation_id, token, why, retryable=True)

    async def unloadable(self, tenant: str, generation_id: str, failure: Failure) -> None:
        """It waited for a model that fails to load, again and again."""
        row = await persist(lambda: self._store.fail(generation_id, None, failure))
        row = row or await persist(lambda: self._store.read(tenant, generation_id))
        if row and row.state.final:
            self._live.ended(row)

    async def expired(self, generation_id: str) -> bool:
        """Its deadline is past; True if it ended by that."""
        row = await persist(lambda: self._store.expire(generation_id, EXPIRED))
        if row:
            self._live.ended(row)
        return row is not None

    async def _ended(self, generation_id: str, token: int, row: Generation | None) -> bool:
        held = self._live.holds(generation_id, token)
        if row is None and held:
            # The guard refused, yet we hold the attempt: an earlier write of ours went through
            # and its acknowledgement was lost, or it expired. The database knows.
            row = await persist(lambda: self._store.read(held.tenant, generation_id))
            if row and row.lease_token == token:
                return False  # still this attempt: the event does not fit its state
        if row and row.state.final:
            self._live.ended(row)
            log.info("ended", generation_id=generation_id, state=row.state, attempt=row.attempt)
        elif row and row.state is State.QUEUED and held:
            self._live.requeued(row)
        return row is not None
