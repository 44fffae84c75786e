"""Submits: made durable in groups, then handed on. Nothing is acknowledged before it is durable.

One commit for all that arrived while the last one was under way: on one disk that is worth about
25 times the throughput, and costs a lone submit nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from atelier.errors import (
    AlreadyExistsError,
    AtelierError,
    DeletedError,
    StorageRefusedError,
    UnavailableError,
)
from atelier.failpoints import failpoint
from atelier.generation import Generation
from atelier.generation_store import GenerationStore

log = structlog.get_logger()

MAX_GROUP = 256


@dataclass
class _Together:
    """Submits of one caller, who hears of all at once: a task or a future for each costs more than
    all else that is done for it."""

    heard: asyncio.Future[list[Generation | Exception]]
    stood: list[Generation | Exception | None]
    left: int

    def tell(self, place: int, what: Generation | Exception) -> None:
        self.stood[place] = what
        self.left -= 1
        if not self.left and not self.heard.done():  # its caller may have gone
            self.heard.set_result([one for one in self.stood if one is not None])


Waiting: TypeAlias = tuple[Generation, _Together, int]


class Intake:
    """The one writer of new generations.

    `accepted` is called for each that is QUEUED now, new or not: an earlier submit of the same key
    may have been made durable without anybody hearing of it. `unfit` tells before why one can not
    be: what nobody can take must not become durable.
    """

    def __init__(
        self,
        store: GenerationStore,
        accepted: Callable[[Generation], None],
        unfit: Callable[[Generation], AtelierError | None] = lambda generation: None,
    ) -> None:
        self._store = store
        self._accepted = accepted
        self._unfit = unfit
        self._waiting: list[Waiting] = []
        self._wake = asyncio.Event()
        self.submitting = 0  # that callers wait for to be durable

    async def submit(self, generation: Generation) -> Generation:
        """As `submit_all`, of one.

        Raises:
            AtelierError: see there.
        """
        (stands,) = await self.submit_all([generation])
        if isinstance(stands, Exception):
            raise stands
        return stands

    async def submit_all(self, generations: Sequence[Generation]) -> list[Generation | Exception]:
        """Make them durable; for each, what stands for it now (an earlier one of the same key and
        body), or why it does not:

        AlreadyExistsError: the request_id was used for another request.
        DeletedError: the request_id stands for a generation that was deleted.
        UnavailableError: the database is away; whether it was stored is unknown, try again.
        AtelierError: what `unfit` tells.
        """
        unfit = [self._unfit(one) for one in generations]
        fit = [one for one, why in zip(generations, unfit, strict=True) if why is None]
        stands = iter(await self._store_all(fit))
        return [why or next(stands) for why in unfit]

    async def _store_all(self, generations: Sequence[Generation]) -> list[Generation | Exception]:
        if not generations:
            return []
        together = _Together(
            asyncio.get_running_loop().create_future(), [None] * len(generations), len(generations)
        )
        self._waiting += [(one, together, place) for place, one in enumerate(generations)]
        self._wake.set()
        self.submitting += len(generations)
        try:
            stored = await together.heard
        finally:
            self.submitting -= len(generations)
        return [
            one if isinstance(one, Exception) else _of_request(one, asked.request_hash)
            for one, asked in zip(stored, generations, strict=True)
        ]

    async def earlier(
        self, generations: Sequence[Generation]
    ) -> dict[str, Generation | AlreadyExistsError]:
        """As `submit_all`, of those that were made durable before; by the ids given. The answer to
        them may have been lost, and they need no room.

        Raises:
            UnavailableError: the database is away.
        """
        stands = await self._store.earlier(generations) if generations else {}
        for row in stands.values():
            self._accepted(row)
        return {
            g.id: _of_request(stands[g.id], g.request_hash) for g in generations if g.id in stands
        }

    async def run(self) -> None:
        """Commit group after group, until cancelled."""
        while True:
            self._wake.clear()
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            if not group:
                await self._wake.wait()
                continue
            await self._commit(group)

    async def _commit(self, group: list[Waiting]) -> None:
        try:
            failpoint("submit_before_commit")
            stored = await self._insert([generation for generation, _, _ in group])
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
        for (_, together, place), row in zip(group, stored, strict=True):
            self._accepted(row)  # its caller may have gone; it is accepted all the same
            together.tell(place, row)

    def _refuse(self, group: list[Waiting], error: Exception) -> None:
        tell = log.info if isinstance(error, DeletedError) else log.error
        tell("submits not stored", count=len(group), error=str(error.__cause__ or error))
        for _, together, place in group:
            together.tell(place, error)

    async def _insert(self, generations: list[Generation]) -> list[Generation]:
        try:
            return await self._store.insert(generations)
        except UnavailableError:
            # A commit can succeed while we see an error; sending it again is safe, and finds out.
            return await self._store.insert(generations)


def _of_request(stored: Generation, request_hash: bytes) -> Generation | AlreadyExistsError:
    try:
        return of_request(stored, request_hash)
    except AlreadyExistsError as error:
        return error


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
