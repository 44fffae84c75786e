"""Which of an attempt's pictures nobody may have: the word of the safety checker that the model's
card names. It looks at pixels, before anything is encoded, and at some of a clip's frames.

Without its word nothing is published: an attempt whose checker fails has failed.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from agent.sampler import Floats
from agent.triton import MAX_PIXEL_BYTES
from atelier.catalog import ModelCard

log = structlog.get_logger()

EVERY_FRAMES = 4  # one of so many is looked at; also the middle one and the last


class Checker(Protocol):
    """What is needed of a device."""

    async def check(self, card: ModelCard, pictures: NDArray[np.uint8]) -> Floats: ...


async def withheld(device: Checker, card: ModelCard, images: NDArray[np.uint8]) -> frozenset[int]:
    """Indices of the pictures, or of the video, that score above the card's threshold.

    Args:
        images: pictures uint8 (n, H, W, 3), or a video (1, T, H, W, 3).

    Raises:
        ExecutionError: the checker failed, or told no scores.
    """
    if card.safety is None:
        return frozenset()
    video = images.ndim == 5
    pictures = images[0] if video else images
    looked_at = looks(len(pictures)) if video else list(range(len(pictures)))
    at_once = max(1, min(card.max_rows, MAX_PIXEL_BYTES // pictures[0].nbytes))
    found: set[int] = set()
    for start in range(0, len(looked_at), at_once):
        part = looked_at[start : start + at_once]
        scores = await device.check(card, pictures[part])
        for index, score in zip(part, scores, strict=True):
            if score > card.safety.threshold:
                found.add(0 if video else index)
    if found:
        log.info("withheld", model=card.name, checker=card.safety.model, results=sorted(found))
    return frozenset(found)


def looks(frames: int) -> list[int]:
    """Which of so many frames are looked at: every fourth from the first, the middle, the last."""
    return sorted({*range(0, frames, EVERY_FRAMES), frames // 2, frames - 1})
