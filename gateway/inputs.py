"""Pictures that callers bring: looked at before anything is promised, then kept under their keys.

Two threads fetch, look and store. Files that came with requests wait for them, HELD_BYTES at most
(and once more in the requests themselves); past that, callers are told to come back. What a thread
takes while it decodes is bounded by pictures.MAX_IMAGE_PIXELS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from atelier.errors import NotFoundError, ResourceExhaustedError, Violation
from atelier.pictures import MAX_PICTURE_BYTES, PictureError, picture_of
from gateway.specs import Picture

T = TypeVar("T")

THREADS = 2
HELD_BYTES = 128 * 2**20
RETRY_SECONDS = 1.0


class Store(Protocol):
    """What is needed of the object store."""

    def has(self, key: str) -> bool: ...
    def get(self, key: str, *, most_bytes: int | None = None) -> bytes: ...
    def put(self, key: str, data: bytes, content_type: str) -> None: ...


class Inputs:
    """Called on the loop."""

    def __init__(self, store: Store, *, held_bytes: int = HELD_BYTES) -> None:
        self._store = store
        self._room = held_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="inputs")

    async def take(self, pictures: Sequence[Picture], *, keep: bool) -> list[Violation]:
        """Look at pictures; where none is bad, and if `keep`, store those that came as files.

        Raises:
            ResourceExhaustedError: too many wait to be looked at.
            UnavailableError: the store is away.
        """
        size = sum(len(picture.data or b"") for picture in pictures)
        if size > self._room:
            raise ResourceExhaustedError(
                "too many pictures wait to be looked at; try again",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._room -= size
        try:
            bad = [wrong for wrong in await self._each(self._look, pictures) if wrong]
            if keep and not bad:
                await self._each(self._keep, [one for one in pictures if one.data is not None])
        finally:
            self._room += size
        return bad

    def close(self) -> None:
        """Take nothing more. Threads that wait for the store go on, since nothing can stop them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

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
