"""Previews: what a generation's first picture looks like so far, long before it is decoded.

Latents after a step are mostly noise until late; the model's guess of what is without noise (D of
the step) looks like a picture soon. A linear map that the card has, fitted at export, takes its
channels to colours, one pixel for each place of the latents; that is drawn larger, as a JPEG of a
few KB.

The step loop never waits for it: D of one picture is copied at the step boundary, the rest happens
in a thread. One preview of a generation is under way at a time, and a step that comes meanwhile has
none. Of a model with a safety checker there are none at all: they would show what is withheld.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image

from agent.sampler import Floats
from agent.work import Progressed
from atelier.catalog import LatentFormat, LatentPreview, ModelCard

log = structlog.get_logger()

LARGEST_SIDE = 256  # pixels
LARGEST_SCALE = 4  # of a pixel for each place of the latents
JPEG_QUALITY = 75


class Previews:
    """One generation's. Called on the loop."""

    def __init__(self, card: ModelCard, every: int, tell: Callable[[Progressed], None]) -> None:
        """`every`: steps between two; 0: none. `tell` is called on the loop."""
        self._map = None if card.safety else card.preview
        self._latents = card.latents
        self._every = every
        self._tell = tell
        self._under_way: asyncio.Future[bytes] | None = None

    def after(self, told: Progressed, denoised: Floats) -> None:
        """A step is over. Returns at once; what it looks like is told later, if it is its turn.

        Args:
            denoised: of the first picture, as in latents: float32 (C, [T,] h, w).
        """
        late = self._under_way is not None and not self._under_way.done()
        if not self._map or not self._every or told.step % self._every or late:
            return
        frame = first_frame(denoised, self._latents, self._map).copy()
        loop = asyncio.get_running_loop()
        self._under_way = loop.run_in_executor(None, draw, frame, self._map)
        self._under_way.add_done_callback(lambda drawn: self._drawn(told, drawn))

    def _drawn(self, told: Progressed, drawn: asyncio.Future[bytes]) -> None:
        if drawn.cancelled():
            return
        if error := drawn.exception():
            log.error("preview not drawn", step=told.step, exc_info=error)
        else:
            self._tell(replace(told, preview=drawn.result()))


def first_frame(latents: Floats, form: LatentFormat, colours: LatentPreview) -> Floats:
    """Of a picture all of it, of a clip what its first frame is: float32 (c, h, w)."""
    if form.frames:  # an axis of time
        return latents[:, 0]
    return latents[: len(colours.factors)]  # frames, if there are any, lie in the channels


def draw(latents: Floats, colours: LatentPreview) -> bytes:
    """A JPEG of latents float32 (c, h, w)."""
    image = Image.fromarray(shown(latents, colours))
    scale = min(LARGEST_SCALE, LARGEST_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(
        file, format="JPEG", quality=JPEG_QUALITY
    )
    return file.getvalue()


def shown(latents: Floats, colours: LatentPreview) -> NDArray[np.uint8]:
    """The colour of each place: float32 (c, h, w) -> uint8 (h, w, 3)."""
    factors = np.array(colours.factors, dtype=np.float32)
    pixels = np.einsum("chw,cx->hwx", latents, factors) + np.array(colours.bias, np.float32)
    seen: NDArray[np.uint8] = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return seen
