"""Pictures that a generation was given: fetched by their keys, and made into latents.

The gateway has seen each before it took the request; here it is judged again, since the store may
hold something else by now, and a key is looked at again, since it is another's if it is not the
tenant's own. A file and its decoded picture are gone before the first step; what stays while an
attempt runs is of the size that is made, and only where it is needed at the end (a mask).

Fetching and decoding have threads of their own: a store that hangs holds up nothing else.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.sampler import Floats
from agent.start import NEW, Given, Shown, made_anew, shown_mask
from agent.work import Work
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError, NotFoundError, UnavailableError, Violation
from atelier.object_keys import is_own
from atelier.pictures import MAX_PICTURE_BYTES, PictureError, fitted, fitted_mask, picture_of
from atelier.spec import Spec, VideoSpec

THREADS = 4  # of all devices; a decoded picture takes up to 64 MB
PATIENCE_SECONDS = 20.0  # for the store, while a device's memory is held
GREY = 128  # of 0 to 255: nothing, to a denoiser that was trained for inpainting

NOT_TAKEN = "is nothing that this model takes: leave it out"

Pixels = NDArray[np.uint8]


class Store(Protocol):
    """What is needed of the object store."""

    def get(self, key: str, *, most_bytes: int | None = None) -> bytes: ...


class Encoder(Protocol):
    """What is needed of a device."""

    async def encode_image(self, card: ModelCard, images: Pixels) -> Floats: ...


class InputRefusedError(ExecutionError):
    """A picture that was given cannot be used, now or later."""

    code = "INVALID_ARGUMENT"

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field} {why}", retryable=False, reason="INPUT_REFUSED")
        self.violations = (Violation(field, why),)


@dataclass(frozen=True, eq=False)
class Brought:
    """What was given, of the size that is made.

    picture: uint8 (H, W, 3), to start from, or a clip's first frame.
    mask: float32 (H, W), from 0 (kept) to 1 (new); None: all is new.
    """

    picture: Pixels
    mask: Floats | None = None

    def paste(self, images: Pixels) -> Pixels:
        """What was made, uint8 (n, H, W, 3), with the picture itself where it is to be kept; what
        is grey in the mask is mixed."""
        if self.mask is None:
            return images
        share, kept = self.mask[..., np.newaxis], self.picture.astype(np.float32)
        mixed = [np.rint(kept + share * (made - kept)).astype(np.uint8) for made in images]
        return np.stack(mixed)


class Inputs:
    """One agent's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="input")

    async def fetch(self, work: Work) -> Brought | None:
        """What the generation was given; None where it was nothing.

        Raises:
            InputRefusedError: it is not there, not the tenant's, or no picture.
            ExecutionError: the store is away.
        """
        if not (_picture_key(work.spec) or _mask_key(work.spec)):
            return None
        loop = asyncio.get_running_loop()
        fetching = loop.run_in_executor(self._threads, self._fetch, work)
        done, _ = await asyncio.wait([fetching], timeout=PATIENCE_SECONDS)
        if not done:
            fetching.cancel()  # where no thread has begun with it
            raise _away("the pictures that were given")
        return fetching.result()

    async def paste(self, brought: Brought | None, images: Pixels) -> Pixels:
        """As Brought.paste."""
        if brought is None or brought.mask is None:
            return images
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, brought.paste, images)

    def close(self) -> None:
        """Take nothing more. Threads that fetch go on, since nothing can stop them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, work: Work) -> Brought:
        spec = work.spec
        if isinstance(spec, VideoSpec):
            first = self._picture(work, "video.first_frame", spec.first_frame)
            return Brought(fitted(first, spec.width, spec.height))
        image = self._picture(work, "image.init_image", spec.init_image)
        picture = fitted(image, spec.width, spec.height)
        if not spec.mask_image:
            return Brought(picture)
        mask = self._picture(work, "image.mask_image", spec.mask_image)
        return Brought(picture, fitted_mask(mask, spec.width, spec.height))

    def _picture(self, work: Work, field: str, key: str) -> Image.Image:
        if not is_own(work.tenant, key):
            raise InputRefusedError(field, "is no object of yours: use a key that you were given")
        try:
            data = self._store.get(key, most_bytes=MAX_PICTURE_BYTES + 1)
        except NotFoundError as error:
            raise InputRefusedError(field, "is not there any more: send it again") from error
        except UnavailableError as error:
            raise _away(field) from error
        if len(data) > MAX_PICTURE_BYTES:
            most = MAX_PICTURE_BYTES // 2**20
            raise InputRefusedError(field, f"has more than {most} MiB: scale it down")
        try:
            return picture_of(data)
        except PictureError as error:
            raise InputRefusedError(field, str(error)) from error


async def encode(device: Encoder, card: ModelCard, spec: Spec, brought: Brought | None) -> Given:
    """What was given, as latents.

    Raises:
        InputRefusedError: the model takes no such thing.
        ExecutionError: the encoder failed.
    """
    if isinstance(spec, VideoSpec):
        return await _first_frame(device, card, brought.picture) if brought else Given()
    sees_masks = card.latents.masking == "concat"
    if brought is None and not sees_masks:
        return Given()
    if not card.components.vae_encoder:
        raise InputRefusedError("image.init_image", NOT_TAKEN)
    down, new, shown = card.latents.downscale, None, None
    if brought and brought.mask is not None:
        new = made_anew(brought.mask, down)
    if sees_masks:
        shown = await _shown(device, card, spec, brought)
    picture = await _encoded(device, card, brought.picture) if brought else None
    return Given(picture, new, shown)


async def _first_frame(device: Encoder, card: ModelCard, picture: Pixels) -> Given:
    """The latents of a clip's first frame, which are kept. The encoder takes whole clips: it is
    given one that stands still."""
    form = card.latents
    if not form.first_frame:
        raise InputRefusedError("video.first_frame", NOT_TAKEN)
    latents = await _encoded(device, card, np.stack([picture] * form.output_frames))
    new = np.ones((form.channels, 1, 1), np.bool_)
    new[: form.channels // form.output_frames] = False  # frame by frame in the channels
    return Given(latents, new)


async def _shown(device: Encoder, card: ModelCard, spec: Spec, brought: Brought | None) -> Shown:
    """What a denoiser that was trained for inpainting sees; all is new where there is no mask."""
    mask = np.ones((spec.height, spec.width), np.float32)
    if brought and brought.mask is not None:
        mask = brought.mask
    seen = brought.picture.copy() if brought else np.empty((spec.height, spec.width, 3), np.uint8)
    seen[mask >= NEW] = GREY
    known = await _encoded(device, card, seen)
    return Shown(shown_mask(mask, card.latents.downscale), known)


async def _encoded(device: Encoder, card: ModelCard, picture: Pixels) -> Floats:
    """uint8 ([T,] H, W, 3) -> float32 (C, h, w)."""
    latents = await device.encode_image(card, picture[np.newaxis])
    height, width = picture.shape[-3:-1]
    if latents.shape != (1, *card.latents.shape(width, height)) or not np.isfinite(latents).all():
        raise ExecutionError(
            "the encoder gave latents that cannot be used", retryable=False, reason="INVALID_OUTPUT"
        )
    encoded: Floats = latents[0]
    return encoded


def _away(what: str) -> ExecutionError:
    return ExecutionError(
        f"{what} could not be read", retryable=True, reason="OBJECT_STORE_UNAVAILABLE"
    )


def _picture_key(spec: Spec) -> str:
    return spec.first_frame if isinstance(spec, VideoSpec) else spec.init_image


def _mask_key(spec: Spec) -> str:
    return "" if isinstance(spec, VideoSpec) else spec.mask_image
