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

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what such a picture becomes; a side that is not given keeps the
        proportions as well as pixels can."""
        wide = self.width or max(1, round(self.height * width / height))
        high = self.height or max(1, round(self.width * height / width))
        return wide, high


DEFAULT_QUALITY = 90
LEAST_THUMBNAIL, LARGEST_THUMBNAIL = 16, 512  # pixels
MAX_SIDE = 4_096  # pixels of what a picture is brought to: 16 megapixels at most


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


@dataclass(frozen=True)
class GivenOutput:
    """What a caller said about a picture's file; None: nothing."""

    format: ImageFormat = ImageFormat.PNG
    quality: int | None = None
    thumbnail_size: int | None = None
    omit_metadata: bool = False
    crop: Crop | None = None
    resize: tuple[int | None, int | None] | None = None


def resolve_image_output(
    given: GivenOutput, size: tuple[int, int] | None, *, path: str
) -> tuple[ImageOutput, list[Violation]]:
    """Fill in and check how pictures are to be written.

    Args:
        size: width and height of what is made, in pixels; None where that is at fault itself.
        path: prefix of the fields' paths, such as "image.output".

    Returns:
        The output and every violation found; it is to be used only if there is none.
    """
    bad = []
    format_, quality = given.format, given.quality
    if format_ is ImageFormat.PNG:
        if quality is not None:
            lossy = ", ".join(f for f in ImageFormat if f is not ImageFormat.PNG)
            text = f"a PNG loses nothing and has none: leave it out, or choose {lossy}"
            bad.append(Violation(f"{path}.quality", text))
    else:
        quality = DEFAULT_QUALITY if quality is None else quality
        if not 1 <= quality <= 100:
            bad.append(Violation(f"{path}.quality", f"must be 1 to 100; got {quality}"))
    if given.crop and (violation := _crop_violation(given.crop, size, f"{path}.crop")):
        bad.append(violation)
        size = None
    elif given.crop:
        size = given.crop.width, given.crop.height
    resize = None
    if given.resize is not None:
        resize = Resize(given.resize[0] or 0, given.resize[1] or 0)
        if violation := _resize_violation(given.resize, size, f"{path}.resize"):
            bad.append(violation)
            size = None
        elif size:
            size = resize.size_of(*size)
    bad += thumbnail_violations(given.thumbnail_size, size, path)
    made = ImageOutput(
        format_,
        quality or 0,
        given.thumbnail_size or 0,
        given.omit_metadata,
        given.crop,
        resize,
    )
    return made, bad


def _crop_violation(crop: Crop, size: tuple[int, int] | None, path: str) -> Violation | None:
    part = f"{crop.width}x{crop.height}+{crop.x}+{crop.y}"
    if min(crop.width, crop.height) < 1 or min(crop.x, crop.y) < 0:
        return Violation(path, f"must be at least 1x1, at 0 or more; got {part}")
    if size and (crop.x + crop.width > size[0] or crop.y + crop.height > size[1]):
        return Violation(path, f"must lie in the picture of {size[0]}x{size[1]}; got {part}")
    return None


def _resize_violation(
    given: tuple[int | None, int | None], size: tuple[int, int] | None, path: str
) -> Violation | None:
    sides = [side for side in given if side is not None]
    if not sides:
        return Violation(path, "needs a width or a height; leave it out to keep the size")
    allowed = f"each side must be 1 to {MAX_SIDE} pixels"
    if not all(1 <= side <= MAX_SIDE for side in sides):
        return Violation(path, f"{allowed}; got {' and '.join(map(str, sides))}")
    if size:
        wide, high = Resize(given[0] or 0, given[1] or 0).size_of(*size)
        if max(wide, high) > MAX_SIDE:
            return Violation(path, f"{allowed}; {size[0]}x{size[1]} would become {wide}x{high}")
    return None


def thumbnail_violations(
    thumbnail_size: int | None, size: tuple[int, int] | None, path: str
) -> list[Violation]:
    """What is wrong with the size of a small copy.

    Args:
        thumbnail_size: None where the caller gave none.
        size: width and height of what it is a copy of; None where that is not known.
        path: prefix of the field's path.
    """
    largest = min(LARGEST_THUMBNAIL, max(size)) if size else LARGEST_THUMBNAIL
    if thumbnail_size is None or LEAST_THUMBNAIL <= thumbnail_size <= largest:
        return []
    field = f"{path}.thumbnail_size"
    if largest < LEAST_THUMBNAIL:
        text = f"the picture is too small for one, which has {LEAST_THUMBNAIL} pixels or more"
        return [Violation(field, f"{text}: leave it out")]
    allowed = f"must be {LEAST_THUMBNAIL} to {largest} pixels, or left out"
    return [Violation(field, f"{allowed}; got {thumbnail_size}")]


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
