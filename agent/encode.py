"""Pixels to the bytes of a picture's file. The same pixels and facts give the same bytes.

First a part is cut out and brought to another size, where that is wanted (`finish`); the file and
its small copy are of what comes of that. How a picture was made lies in the file as JSON: in a
PNG's iTXt chunk "parameters", elsewhere in EXIF's UserComment. Callers are on a thread: encoders
take their time.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from atelier.output import DEFAULT_QUALITY, ImageFormat, ImageOutput

SOFTWARE = "Atelier"
# Of EXIF's 64 KiB. Only prompts of thousands of characters that JSON must escape come so far.
MAX_COMMENT_BYTES = 60_000
_PROMPTS = ("prompt", "negative_prompt")  # what is left out of a comment that is too long


@dataclass(frozen=True)
class FileKind:
    """A format's media type, suffix, and settings of its encoder in Pillow, stated for ever: the
    bytes depend on them. Where the format can, colour is stored at full resolution: flat shapes
    would fray."""

    content_type: str
    suffix: str
    settings: Mapping[str, Any] = field(default_factory=dict)


KINDS = {
    ImageFormat.PNG: FileKind("image/png", "png", {"compress_level": 6}),
    ImageFormat.JPEG: FileKind("image/jpeg", "jpg", {"subsampling": "4:4:4", "optimize": True}),
    ImageFormat.WEBP: FileKind("image/webp", "webp", {"method": 4, "use_sharp_yuv": True}),
    ImageFormat.AVIF: FileKind(
        "image/avif", "avif", {"subsampling": "4:4:4", "speed": 8, "max_threads": 1}
    ),
}


def finish(pixels: NDArray[np.uint8], output: ImageOutput) -> NDArray[np.uint8]:
    """Cut out of a picture uint8 (H, W, 3) what is wanted of it, then bring that to its size."""
    if crop := output.crop:
        pixels = pixels[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    if resize := output.resize:
        height, width, _ = pixels.shape
        size = resize.size_of(width, height)
        pixels = np.asarray(_image(pixels).resize(size, Image.Resampling.LANCZOS))
    return pixels


def encode(
    pixels: NDArray[np.uint8], output: ImageOutput, parameters: Mapping[str, Any] | None
) -> bytes:
    """The file of one picture.

    Args:
        pixels: uint8 (H, W, 3), finished.
        parameters: how it was made; None: the file tells nothing.
    """
    return _save(_image(pixels), output.format, output.quality, parameters)


def thumbnail(pixels: NDArray[np.uint8], output: ImageOutput) -> bytes:
    """The file of a small copy of what is finished, its longer side as `output` says; it tells
    nothing."""
    image = _image(pixels)
    image.thumbnail((output.thumbnail_size,) * 2, Image.Resampling.LANCZOS)
    return _save(image, output.format, output.quality, None)


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels))


def _save(
    image: Image.Image, format_: ImageFormat, quality: int, parameters: Mapping[str, Any] | None
) -> bytes:
    settings = dict(KINDS[format_].settings)
    if format_ is ImageFormat.PNG:
        if parameters is not None:
            settings["pnginfo"] = _chunks(parameters)
    else:
        settings["quality"] = quality or DEFAULT_QUALITY
        if parameters is not None:
            settings["exif"] = _exif(parameters)
    file = io.BytesIO()
    image.save(file, format=format_.value, **settings)
    return file.getvalue()


def _chunks(parameters: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("parameters", json.dumps(parameters, ensure_ascii=False))
    chunks.add_text("Software", SOFTWARE)
    return chunks


def _exif(parameters: Mapping[str, Any]) -> Image.Exif:
    comment = _comment(parameters)
    if len(comment) > MAX_COMMENT_BYTES:
        comment = _comment({k: v for k, v in parameters.items() if k not in _PROMPTS})
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = SOFTWARE
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif


def _comment(parameters: Mapping[str, Any]) -> bytes:
    """EXIF 2.3, table 9: the code's name in eight bytes, then UTF-16 in the byte order of the file,
    which is big-endian as Pillow writes it."""
    text = json.dumps(parameters, ensure_ascii=False)
    return b"UNICODE\0" + text.encode("utf-16-be")
