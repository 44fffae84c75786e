"""Results: pixels to files that say how they were made, uploaded under keys that hold the attempt.

A picture is encoded, then put; a video is uploaded while it is encoded, part by part.

The lease_token in the key means that two attempts at one generation never write the same object: a
zombie's upload cannot replace a published picture. What an attempt uploaded and did not publish in
the end (it was cancelled, or a later picture failed) is deleted as well as that goes. Nothing else
sweeps: what a dying agent left, or an outcome that was not taken, stays until somebody deletes it.

Encoding and uploading have threads of their own: a store that hangs holds up nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from agent import encode, video
from agent.work import AttemptCancelledError, Work
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError, UnavailableError
from atelier.generation import Result
from atelier.object_keys import result_key
from atelier.object_store import Stored
from atelier.spec import ImageSpec, Spec, VideoSpec

log = structlog.get_logger()

UPLOAD_THREADS = 8  # they mostly wait; half of what the store's connection pool holds


class Store(Protocol):
    """What is needed of the object store."""

    def put(self, key: str, data: bytes, content_type: str) -> None: ...
    def put_stream(
        self, key: str, pieces: Callable[[], Iterable[bytes]], content_type: str
    ) -> Stored: ...
    def get(self, key: str) -> bytes: ...
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
    ) -> tuple[Result, ...]:
        """Encode and upload what an attempt made, in order.

        Args:
            images: pictures uint8 (n, H, W, 3), or a video (1, T, H, W, 3).

        Raises:
            ExecutionError: the store did not take them, retries included, or they have no encoder.
            AttemptCancelledError: `cancelled()` was true before a picture, or within a video.
        """
        loop = asyncio.get_running_loop()
        results: list[Result] = []
        try:
            for index, pixels in enumerate(images):
                if cancelled():
                    raise AttemptCancelledError
                results.append(
                    await loop.run_in_executor(
                        self._threads, self._publish_one, work, card, index, pixels, cancelled
                    )
                )
        except AttemptCancelledError:
            self._sweep(work, len(results))
            raise
        except UnavailableError as error:
            self._sweep(work, len(results) + 1)  # the last may be there, its answer lost
            raise ExecutionError(
                "the result could not be uploaded", retryable=True, reason="UPLOAD_FAILED"
            ) from error
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
    ) -> Result:
        if isinstance(work.spec, VideoSpec):
            return self._publish_video(work, work.spec, card, pixels, cancelled)
        output, kind = work.spec.output, encode.KINDS[work.spec.output.format]
        told = None if output.omit_metadata else parameters_of(work.spec, index, card)
        data = encode.encode(pixels, output, told)
        key, small_key = object_key(work, index), ""
        self._store.put(key, data, kind.content_type)
        if output.thumbnail_size:
            small_key = object_key(work, index, small=True)
            self._store.put(small_key, encode.thumbnail(pixels, output), kind.content_type)
        return Result(
            index=index,
            object_key=key,
            content_type=kind.content_type,
            size_bytes=len(data),
            width=pixels.shape[1],
            height=pixels.shape[0],
            sha256=hashlib.sha256(data).hexdigest(),
            seed=work.spec.seed_of(index),
            thumbnail_key=small_key,
        )

    def _publish_video(
        self,
        work: Work,
        spec: VideoSpec,
        card: ModelCard,
        frames: NDArray[np.uint8],
        cancelled: Callable[[], bool],
    ) -> Result:
        output, pace = spec.output, spec.frames_per_second
        told = None if output.omit_metadata else parameters_of(spec, 0, card)

        def pieces() -> Iterator[bytes]:  # from the start again, where the store is asked again
            try:
                for piece in video.encode(frames, pace, output.format, told):
                    if cancelled():
                        raise AttemptCancelledError
                    yield piece
            except (video.EncodingError, LookupError) as error:
                log.warning("video not encoded", detail=str(error)[:300])
                raise ExecutionError(
                    "the video could not be encoded", retryable=False, reason="ENCODING_FAILED"
                ) from error

        key, kind = object_key(work, 0), video.CONTAINERS[output.format]
        stored = self._store.put_stream(key, pieces, kind.content_type)
        return Result(
            index=0,
            object_key=key,
            content_type=kind.content_type,
            size_bytes=stored.size_bytes,
            width=frames.shape[2],
            height=frames.shape[1],
            sha256=stored.sha256,
            seed=spec.seed,
            frames=len(frames),
            frames_per_second=pace,
            codec=video.encoder_of(output.format).codec,
        )

    def _sweep(self, work: Work, count: int) -> None:
        """Delete the attempt's first `count` pictures, while its outcome is told already."""

        def delete() -> None:
            try:
                for index in range(count):
                    for small in (False, True) if has_thumbnails(work) else (False,):
                        self._store.delete(object_key(work, index, small=small))
            except Exception as error:
                log.warning(
                    "uploads left behind",
                    generation=work.attempt.generation_id,
                    attempt=work.attempt.lease_token,
                    reason=str(error),
                )

        if count:
            self._threads.submit(delete)


def has_thumbnails(work: Work) -> bool:
    """Whether small copies were asked for."""
    return isinstance(work.spec, ImageSpec) and work.spec.output.thumbnail_size > 0


def object_key(work: Work, index: int, *, small: bool = False) -> str:
    """results/{tenant}/{generation_id}/{lease_token}/{index}.{suffix}, safe as a path; a small copy
    is called {index}.small.{suffix}."""
    attempt = work.attempt
    spec, name = work.spec, f"{index}.small" if small else f"{index}"
    if isinstance(spec, VideoSpec):
        suffix = video.CONTAINERS[spec.output.format].suffix
    else:
        suffix = encode.KINDS[spec.output.format].suffix
    token = attempt.lease_token
    return result_key(work.tenant, attempt.generation_id, token, f"{name}.{suffix}")


def parameters_of(spec: Spec, index: int, card: ModelCard) -> dict[str, Any]:
    """What a file tells of how it was made, so that it can be made again."""
    pace = {"frames_per_second": spec.frames_per_second} if isinstance(spec, VideoSpec) else {}
    return {
        "prompt": spec.prompt,
        "prompt_sha256": hashlib.sha256(spec.prompt.encode()).hexdigest(),
        "negative_prompt": spec.negative_prompt,
        "seed": spec.seed_of(index),
        "steps": spec.steps,
        "guidance": spec.guidance,
        "sampler": spec.sampler,
        "size": spec.shape,
        **pace,
        "model": card.name,
        "model_version": card.version,
    }
