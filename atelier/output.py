"""How results are written: file formats and what goes into the files. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from atelier.errors import Violation


class ImageFormat(StrEnum):
    """Format of a picture's file."""

    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WEBP"
    AVIF = "AVIF"


@dataclass(frozen=True)
class Crop:
    """A part of a picture, in its pixels from the left and the top."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Resize:
    """A size in pixels; 0 for a side that follows from the other."""

    width: int
    height: int


DEFAULT_QUALITY = 90
LEAST_THUMBNAIL, LARGEST_THUMBNAIL = 16, 512  # pixels


@dataclass(frozen=True)
class ImageOutput:
    """How a picture's file is written.

    Attributes:
        quality: 1 to 100; 0 of a PNG, which has none.
        thumbnail_size: pixels of the longer side of a small copy beside it; 0 for none.
        omit_metadata: leave out of the file how it was made.
        crop: what is kept of the picture; None: all of it.
        resize: what that is brought to; None: it stays as it is.
    """

    format: ImageFormat = ImageFormat.PNG
    quality: int = 0
    thumbnail_size: int = 0
    omit_metadata: bool = False
    crop: Crop | None = None
    resize: Resize | None = None


def resolve_image_output(
    format_: ImageFormat,
    quality: int | None,
    thumbnail_size: int | None,
    *,
    omit_metadata: bool,
    longer_side: int,
    path: str,
) -> tuple[ImageOutput, list[Violation]]:
    """Fill in and check how pictures are to be written.

    Args:
        quality, thumbnail_size: None where the caller gave none.
        longer_side: of the picture, in pixels.
        path: prefix of the fields' paths, such as "image.output".

    Returns:
        The output and every violation found; it is to be used only if there is none.
    """
    bad = []
    if format_ is ImageFormat.PNG:
        if quality is not None:
            lossy = ", ".join(f for f in ImageFormat if f is not ImageFormat.PNG)
            text = f"a PNG loses nothing and has none: leave it out, or choose {lossy}"
            bad.append(Violation(f"{path}.quality", text))
    elif quality is not None and not 1 <= quality <= 100:
        bad.append(Violation(f"{path}.quality", f"must be 1 to 100; got {quality}"))
    largest = min(LARGEST_THUMBNAIL, longer_side)
    if thumbnail_size is not None and not LEAST_THUMBNAIL <= thumbnail_size <= largest:
        allowed = f"must be {LEAST_THUMBNAIL} to {largest} pixels, or left out"
        bad.append(Violation(f"{path}.thumbnail_size", f"{allowed}; got {thumbnail_size}"))
    if format_ is not ImageFormat.PNG and quality is None:
        quality = DEFAULT_QUALITY
    return ImageOutput(format_, quality or 0, thumbnail_size or 0, omit_metadata), bad


def stored_image_output(values: Mapping[str, Any]) -> ImageOutput:
    """The output of which `values` are the fields, as dataclasses.asdict gave them."""
    crop, resize = values.get("crop"), values.get("resize")
    made = {
        "format": ImageFormat(values["format"]),
        "crop": Crop(**crop) if crop else None,
        "resize": Resize(**resize) if resize else None,
    }
    return ImageOutput(**{**values, **made})


class VideoFormat(StrEnum):
    """Container of a video's file; which codec is in it is the agent's to say."""

    MP4 = "MP4"
    WEBM = "WEBM"


@dataclass(frozen=True)
class VideoOutput:
    """How a video's file is written.

    Attributes:
        omit_metadata: leave out of the file how it was made.
        thumbnail_size: pixels of the longer side of a picture of the first frame; 0 for none.
    """

    format: VideoFormat = VideoFormat.MP4
    omit_metadata: bool = False
    thumbnail_size: int = 0


def stored_video_output(values: Mapping[str, Any]) -> VideoOutput:
    """The output of which `values` are the fields, as dataclasses.asdict gave them."""
    return VideoOutput(**{**values, "format": VideoFormat(values["format"])})
