"""Pictures that callers bring: looked at before anything is promised, then kept under their keys.

What this takes of the gateway's memory is bounded. Two threads look at pictures, each within what a
decoder needs for pictures.MAX_IMAGE_PIXELS (340 MiB at most in what was measured); requests that
bring pictures have HELD_BYTES together, for as long as gRPC holds them, which is until their call
ends. They lie there up to three times: as they came, as a message, and as files to be looked at.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from atelier.errors import (
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    Violation,
)
from atelier.pictures import MAX_PICTURE_BYTES, PictureError, picture_of
from gateway.specs import Picture

T = TypeVar("T")

THREADS = 2
HELD_BYTES = 128 * 2**20
SMALL_BYTES = 64 * 2**10  # of a request: all but pictures fits into it
RETRY_SECONDS = 1.0
# For the threads, and the store behind them: one that hangs keeps both for minutes.
PATIENCE_SECONDS = 30.0
TRIM_SECONDS = 1.0  # after the last large request, when gRPC has let go of it


class Store(Protocol):
    """What is needed of the object store."""

    def has(self, key: str) -> bool: ...
    def get(self, key: str, *, most_bytes: int | None = None) -> bytes: ...
    def put(self, key: str, data: bytes, content_type: str) -> str: ...


class Inputs:
    """Called on the loop."""

    def __init__(
        self,
        store: Store,
        *,
        held_bytes: int = HELD_BYTES,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._store = store
        self._patience_seconds = patience_seconds
        self._all_room = self._room = held_bytes
        self._trim: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="inputs")

    @contextmanager
    def room_for(self, request: Message) -> Iterator[None]:
        """Around all that is done while a request is held.

        Raises:
            ResourceExhaustedError: too many that bring pictures are held already.
        """
        size = request.ByteSize()
        size = size if size > SMALL_BYTES else 0
        if size > self._room:
            raise ResourceExhaustedError(
                "too many requests that bring pictures are under way; try again,"
                " by CreateGeneration or with object keys",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._room -= size
        try:
            yield
        finally:
            self._room += size
            if size and self._room == self._all_room:
                self._give_back_soon()

    async def read(self, request: Message, work: Callable[[], T]) -> T:
        """What `work` makes of a request; in a thread if that is large, since to hash a picture
        takes longer than all the rest.

        Raises:
            UnavailableError: no thread came to it in time.
        """
        if request.ByteSize() <= SMALL_BYTES:
            return work()
        async with self._in_time():
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def take(self, pictures: Sequence[Picture], *, keep: bool) -> list[Violation]:
        """Look at pictures; where none is bad, and if `keep`, store those that came as files.

        Raises:
            UnavailableError: the store is away, or all of it takes too long.
        """
        if not pictures:
            return []
        async with self._in_time():
            bad = [wrong for wrong in await self._each(self._look, pictures) if wrong]
            if keep and not bad:
                await self._each(self._keep, [one for one in pictures if one.data is not None])
        return bad

    def close(self) -> None:
        """Take nothing more. Threads that wait for the store go on, since nothing can stop them."""
        if self._trim:
            self._trim.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _give_back_soon(self) -> None:
        if self._trim:
            self._trim.cancel()
        loop = asyncio.get_running_loop()
        self._trim = loop.call_later(TRIM_SECONDS, self._threads.submit, _give_back)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience_seconds):
                yield
        except TimeoutError:  # what no thread has begun with is cancelled by now
            seconds = self._patience_seconds
            raise UnavailableError(
                f"pictures could not be looked at and stored within {seconds:g} s:"
                " ask again with the same request_id",
                reason="OBJECT_STORE_UNAVAILABLE",
                retry_after_seconds=RETRY_SECONDS,
            ) from None

    async def _each(self, work: Callable[[Picture], T], pictures: Sequence[Picture]) -> list[T]:
        """What `work` gives for each; the first error is raised once none is at work any more."""
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._threads, work, one) for one in pictures]
        await asyncio.gather(*calls, return_exceptions=True)
        return [call.result() for call in calls]

    def _look(self, picture: Picture) -> Violation | None:
        """What is wrong with it, if anything."""
        data = picture.data
        try:
            if data is None:
                data = self._store.get(picture.key, most_bytes=MAX_PICTURE_BYTES + 1)
            picture_of(data)
        except NotFoundError:
            return picture.not_there
        except PictureError as error:
            return Violation(picture.path, str(error))
        return None

    def _keep(self, picture: Picture) -> None:
        assert picture.data is not None
        if not self._store.has(picture.key):  # the key tells the content: it is the same file
            self._store.put(picture.key, picture.data, picture.content_type)


def _give_back() -> None:
    """To the system: what is freed between small things that live, glibc keeps else."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
