"""Pixels to files: a PNG that says how it was made. Same pixels and facts, same bytes."""

from __future__ import annotations

import io
import json

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from atelier.catalog import ModelCard
from atelier.spec import ImageSpec

CONTENT_TYPE = "image/png"
_COMPRESS_LEVEL = 6  # zlib's default, stated: the bytes depend on it


def encode_png(pixels: NDArray[np.uint8], spec: ImageSpec, index: int, card: ModelCard) -> bytes:
    """Encode one picture.

    Args:
        pixels: uint8 (H, W, 3).
        index: which of the spec's pictures it is.

    Returns:
        The file; its iTXt chunk "parameters" is the JSON from which it can be made again.
    """
    parameters = {
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "seed": spec.seed_of(index),
        "steps": spec.steps,
        "guidance": spec.guidance,
        "sampler": spec.sampler,
        "size": spec.shape,
        "model": card.name,
        "model_version": card.version,
    }
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("parameters", json.dumps(parameters, ensure_ascii=False))
    chunks.add_text("Software", "Atelier")
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(file, format="PNG", pnginfo=chunks, compress_level=_COMPRESS_LEVEL)
    return file.getvalue()
