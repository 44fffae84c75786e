"""Where results go: encoded and uploaded off the event loop, under keys that hold the attempt.

The lease_token in the key means that two attempts at one generation never write the same object:
a zombie's upload is swept later, it cannot replace a published picture.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from agent.encode import CONTENT_TYPE, encode_png
from agent.work import AttemptCancelledError, Work
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError, UnavailableError
from atelier.generation import Result


class Store(Protocol):
    """What is needed of the object store."""

    def put(self, key: str, data: bytes, content_type: str) -> None: ...


def object_key(work: Work, index: int) -> str:
    """results/{tenant}/{generation_id}/{lease_token}/{index}.png, safe as a path."""
    tenant = quote(work.tenant, safe="").replace(".", "%2E")  # no dots: no parent folders
    attempt = work.attempt
    return f"results/{tenant}/{attempt.generation_id}/{attempt.lease_token}/{index}.png"


async def publish(
    store: Store,
    work: Work,
    card: ModelCard,
    images: NDArray[np.uint8],
    cancelled: Callable[[], bool],
) -> tuple[Result, ...]:
    """Encode and upload the pictures uint8 (n, H, W, 3) of an attempt, in order.

    Raises:
        ExecutionError: the store did not take them, retries included.
        AttemptCancelledError: `cancelled()` was true before a picture.
    """
    results = []
    for index, pixels in enumerate(images):
        if cancelled():
            raise AttemptCancelledError
        try:
            results.append(await asyncio.to_thread(_publish_one, store, work, card, index, pixels))
        except UnavailableError as error:
            raise ExecutionError(
                "the result could not be uploaded", retryable=True, reason="UPLOAD_FAILED"
            ) from error
    return tuple(results)


def _publish_one(
    store: Store, work: Work, card: ModelCard, index: int, pixels: NDArray[np.uint8]
) -> Result:
    data = encode_png(pixels, work.spec, index, card)
    key = object_key(work, index)
    store.put(key, data, CONTENT_TYPE)
    return Result(
        index=index,
        object_key=key,
        content_type=CONTENT_TYPE,
        size_bytes=len(data),
        width=pixels.shape[1],
        height=pixels.shape[0],
        sha256=hashlib.sha256(data).hexdigest(),
        seed=work.spec.seed_of(index),
    )
