"""Submits: made durable in groups, then handed on. Nothing is acknowledged before it is durable.

One commit for all that arrived while the last one was under way: on one disk that is worth about
25 times the throughput, and costs a lone submit nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from atelier.errors import AlreadyExistsError, DeletedError, StorageRefusedError, UnavailableError
from atelier.failpoints import failpoint
from atelier.generation import Generation
from atelier.generation_store import GenerationStore

log = structlog.get_logger()

MAX_GROUP = 256


class Intake:
    """The one writer of new generations.

    `accepted` is called for each that is QUEUED now, new or not: an earlier submit of the same key
    may have been made durable without anybody hearing of it.
    """

    def __init__(self, store: GenerationStore, accepted: Callable[[Generation], None]) -> None:
        self._store = store
        self._accepted = accepted
        self._waiting: list[tuple[Generation, asyncio.Future[Generation]]] = []
        self._wake = asyncio.Event()
        self.submitting = 0  # callers that wait for theirs to be durable

    async def submit(self, generation: Generation) -> Generation:
        """Make it durable; what stands for it now (an earlier one of the same key and body).

        Raises:
            AlreadyExistsError: the request_id was used for another request.
            DeletedError: the request_id stands for a generation that was deleted.
            UnavailableError: the database is away; whether it was stored is unknown, try again.
        """
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._waiting.append((generation, future))
        self._wake.set()
        self.submitting += 1
        try:
            stored = await future
        finally:
            self.submitting -= 1
        return of_request(stored, generation.request_hash)

    async def run(self) -> None:
        """Commit group after group, until cancelled."""
        while True:
            self._wake.clear()
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            if not group:
                await self._wake.wait()
                continue
            await self._commit(group)

    async def _commit(self, group: list[tuple[Generation, asyncio.Future[Generation]]]) -> None:
        try:
            failpoint("submit_before_commit")
            stored = await self._insert([generation for generation, _ in group])
            failpoint("submit_committed")
        except DeletedError as error:
            self._refuse([one for one in group if one[0].id in error.ids], error)
            if others := [one for one in group if one[0].id not in error.ids]:
                await self._commit(others)  # they are stored: what stands for each is read
            return
        except StorageRefusedError as error:
            if len(group) > 1:  # one of them is at fault; the others are not
                for one in group:
                    await self._commit([one])
                return
            self._refuse(group, error)
            return
        except Exception as error:
            self._refuse(group, error)
            return
        for (_, future), row in zip(group, stored, strict=True):
            self._accepted(row)
            if not future.done():  # its caller may have gone; it is accepted all the same
                future.set_result(row)

    def _refuse(
        self, group: list[tuple[Generation, asyncio.Future[Generation]]], error: Exception
    ) -> None:
        tell = log.info if isinstance(error, DeletedError) else log.error
        tell("submits not stored", count=len(group), error=str(error.__cause__ or error))
        for _, future in group:
            if not future.done():
                future.set_exception(error)

    async def _insert(self, generations: list[Generation]) -> list[Generation]:
        try:
            return await self._store.insert(generations)
        except UnavailableError:
            # A commit can succeed while we see an error; sending it again is safe, and finds out.
            return await self._store.insert(generations)


def of_request(stored: Generation, request_hash: bytes) -> Generation:
    """What stands for a request_id.

    Raises:
        AlreadyExistsError: it stands for another request.
    """
    if stored.request_hash != request_hash:
        raise AlreadyExistsError(
            f"request_id {stored.request_id!r} was used for another request: generation"
            f" {stored.id}; send that request again, or take a new request_id",
            metadata={"generation_id": stored.id},
        )
    return stored
