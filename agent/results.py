"""Results: pixels to files that say how they were made, uploaded under keys that hold the attempt.

A picture is finished and encoded, then put; a video is uploaded while it is encoded, part by part.
What the model's safety checker withheld is not even encoded: its result has no key.

The lease_token in the key means that two attempts at one generation never write the same object: a
zombie's upload cannot replace a published picture. What an attempt uploaded and did not publish in
the end (it was cancelled, or a later picture failed) is deleted as well as that goes. What a dying
agent left, or an outcome that was not taken, is `atelier sweep`'s to delete.

Encoding and uploading have threads of their own: a store that hangs holds up nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from agent import encode, video
from agent.parameters import parameters_of
from agent.work import AttemptCancelledError, Work
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError, UnavailableError
from atelier.failpoints import failpoint
from atelier.generation import Result
from atelier.object_keys import result_key
from atelier.object_store import Stored
from atelier.output import ImageFormat, ImageOutput
from atelier.spec import VideoSpec

log = structlog.get_logger()

SMALL_OF_VIDEO = ImageFormat.JPEG  # a picture of the first frame
UPLOAD_THREADS = 8  # they mostly wait; half of what the store's connection pool holds


class Store(Protocol):
    """What is needed of the object store."""

    def put(self, key: str, data: bytes, content_type: str) -> str: ...
    def put_stream(
        self, key: str, pieces: Callable[[], Iterable[bytes]], content_type: str
    ) -> Stored: ...
    def get(self, key: str, *, most_bytes: int | None = None) -> bytes: ...
    def delete(self, key: str) -> None: ...


class Results:
    """Publishes what attempts made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="upload")

    async def publish(
        self,
        work: Work,
        card: ModelCard,
        images: NDArray[np.uint8],
        cancelled: Callable[[], bool],
        withheld: Collection[int] = (),
        encoded: Callable[[float], object] = lambda _: None,
    ) -> tuple[Result, ...]:
        """Encode and upload what an attempt made, in order.

        Args:
            images: pictures uint8 (n, H, W, 3), or a video (1, T, H, W, 3).
            withheld: which of them nobody may have.
            encoded: told the seconds that each encoding took, from whichever thread.

        Raises:
            ExecutionError: the store did not take them, retries included, or they have no encoder.
            AttemptCancelledError: `cancelled()` was true before a picture, or within a video.
        """
        loop = asyncio.get_running_loop()
        results: list[Result] = []
        stored: list[str] = []
        try:
            for index, pixels in enumerate(images):
                if cancelled():
                    raise AttemptCancelledError
                if index in withheld:
                    results.append(_withheld(work, index))
                    continue
                results.append(
                    await loop.run_in_executor(
                        self._threads,
                        self._publish_one,
                        work,
                        card,
                        index,
                        pixels,
                        cancelled,
                        encoded,
                    )
                )
                stored += keys_of(work, index)
        except UnavailableError as error:
            # The last may be there, its answer lost.
            self._sweep(work, [*stored, *keys_of(work, len(results))])
            raise ExecutionError(
                "the result could not be uploaded", retryable=True, reason="UPLOAD_FAILED"
            ) from error
        except Exception:
            self._sweep(work, stored)
            raise
        return tuple(results)

    def close(self) -> None:
        """Take nothing more. Threads that upload go on, since nothing can stop them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _publish_one(
        self,
        work: Work,
        card: ModelCard,
        index: int,
        pixels: NDArray[np.uint8],
        cancelled: Callable[[], bool],
        encoded: Callable[[float], object],
    ) -> Result:
        if isinstance(work.spec, VideoSpec):
            return self._publish_video(work, work.spec, card, pixels, cancelled, encoded)
        output, kind = work.spec.output, encode.KINDS[work.spec.output.format]
        told = None if output.omit_metadata else parameters_of(work.spec, index, card)
        began = time.perf_counter()
        pixels = encode.finish(pixels, output)
        data = encode.encode(pixels, output, told)
        encoded(time.perf_counter() - began)
        failpoint("before_upload")
        key = self._store.put(object_key(work, index), data, kind.content_type)
        return Result(
            index=index,
            object_key=key,
            content_type=kind.content_type,
            size_bytes=len(data),
            width=pixels.shape[1],
            height=pixels.shape[0],
            sha256=hashlib.sha256(data).hexdigest(),
            seed=work.spec.seed_of(index),
            thumbnail_key=self._publish_small(work, index, pixels, output),
        )

    def _publish_small(
        self, work: Work, index: int, pixels: NDArray[np.uint8], output: ImageOutput
    ) -> str:
        """The key of a small copy; "" where none is wanted."""
        if not output.thumbnail_size:
            return ""
        key, kind = object_key(work, index, small=True), encode.KINDS[output.format]
        return self._store.put(key, encode.thumbnail(pixels, output), kind.content_type)

    def _publish_video(
        self,
        work: Work,
        spec: VideoSpec,
        card: ModelCard,
        frames: NDArray[np.uint8],
        cancelled: Callable[[], bool],
        encoded: Callable[[float], object],
    ) -> Result:
        output, pace = spec.output, spec.frames_per_second
        told = None if output.omit_metadata else parameters_of(spec, 0, card)

        def pieces() -> Iterator[bytes]:  # from the start again, where the store is asked again
            try:
                for piece in _timed(video.encode(frames, pace, output.format, told), encoded):
                    if cancelled():
                        raise AttemptCancelledError
                    yield piece
            except (video.EncodingError, LookupError) as error:
                log.warning("video not encoded", **work.whose, detail=str(error)[:300])
                raise ExecutionError(
                    "the video could not be encoded", retryable=False, reason="ENCODING_FAILED"
                ) from error

        kind = video.CONTAINERS[output.format]
        stored = self._store.put_stream(object_key(work, 0), pieces, kind.content_type)
        small = ImageOutput(SMALL_OF_VIDEO, thumbnail_size=output.thumbnail_size)
        return Result(
            index=0,
            object_key=stored.key,
            content_type=kind.content_type,
            size_bytes=stored.size_bytes,
            width=frames.shape[2],
            height=frames.shape[1],
            sha256=stored.sha256,
            seed=spec.seed,
            frames=len(frames),
            frames_per_second=pace,
            codec=video.encoder_of(output.format).codec,
            thumbnail_key=self._publish_small(work, 0, frames[0], small),
        )

    def _sweep(self, work: Work, keys: Sequence[str]) -> None:
        """Delete what the attempt stored, while its outcome is told already."""

        def delete() -> None:
            try:
                for key in keys:
                    self._store.delete(key)
            except Exception as error:
                log.warning(
                    "uploads left behind",
                    **work.whose,
                    attempt=work.attempt.lease_token,
                    reason=str(error),
                )

        if keys:
            self._threads.submit(delete)


def _timed(pieces: Iterable[bytes], told: Callable[[float], object]) -> Iterator[bytes]:
    """The same; `told` gets the seconds that each was waited for."""
    began = time.perf_counter()
    for piece in pieces:
        told(time.perf_counter() - began)
        yield piece
        began = time.perf_counter()


def _withheld(work: Work, index: int) -> Result:
    """The result of a picture or video that nobody may have."""
    return Result(
        index=index,
        object_key="",
        content_type="",
        size_bytes=0,
        width=0,
        height=0,
        sha256="",
        seed=work.spec.seed_of(index),
        withheld=True,
    )


def keys_of(work: Work, index: int) -> list[str]:
    """Where a picture or video and its small copy lie, if it has one."""
    small = [True] if work.spec.output.thumbnail_size else []
    return [object_key(work, index, small=one) for one in (False, *small)]


def object_key(work: Work, index: int, *, small: bool = False) -> str:
    """results/{tenant}/{generation_id}/{lease_token}/{index}.{suffix}, safe as a path; a small copy
    is called {index}.small.{suffix}."""
    attempt = work.attempt
    spec, name = work.spec, f"{index}.small" if small else f"{index}"
    if not isinstance(spec, VideoSpec):
        suffix = encode.KINDS[spec.output.format].suffix
    elif small:
        suffix = encode.KINDS[SMALL_OF_VIDEO].suffix
    else:
        suffix = video.CONTAINERS[spec.output.format].suffix
    token = attempt.lease_token
    return result_key(work.tenant, attempt.generation_id, token, f"{name}.{suffix}")
