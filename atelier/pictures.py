"""Pictures that callers bring: judged by their headers first, decoded only then.

Whoever sends a file may mean harm by it. So: four formats and no other of Pillow's; the size in
pixels, the number of frames and the metadata are looked at before anything is decoded; what a
decoder trips over is a PictureError, whose text is ours. Colour profiles are not applied.
Everything here may be called in many threads at once.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Imported for what they register: Image.open, given formats, loads no plugins by itself.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from atelier import avif

MAX_PICTURE_BYTES = 8 * 2**20
MAX_IMAGE_PIXELS = 16 * 2**20
MAX_METADATA_BYTES = 2**20  # of a PNG, unpacked; what editors write has a tenth of that
MAX_PNG_CHUNKS = 10_000  # 8 MiB in the pieces of 8 KiB that libpng writes are 1,024
MAX_JPEG_SCANS = 100  # each is a pass over the whole picture; progressive files have about ten
FORMATS: Final = ("PNG", "JPEG", "WEBP", "AVIF")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_AVIF_BRANDS = frozenset({b"avif", b"avis", b"mif1", b"msf1"})  # as Pillow has it
_NO_PICTURE = "is no PNG, JPEG, WebP or AVIF file: save it as one of these"
_ORIENTATION = 0x0112  # of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(ValueError):
    """A file that is not taken; the text, to be put behind the field's name, says why."""


def picture_of(data: bytes) -> Image.Image:
    """The picture in a file: RGB, decoded, upright, what is transparent in it white.

    Raises:
        PictureError: it is none that is taken.
    """
    try:
        image = _opened(data)
        image.load()
        return _rgb(_upright(image))
    except (PictureError, MemoryError):  # room may be there another time
        raise
    except Exception as error:
        raise PictureError("is corrupt or cut short: save it anew") from error


def kind_of(data: bytes) -> tuple[str, str]:
    """Suffix and media type of a picture's file, by its first bytes; of no picture, "bin"."""
    if data.startswith(_PNG_SIGNATURE):
        return "png", "image/png"
    if data.startswith(b"\xff\xd8"):
        return "jpg", "image/jpeg"
    if data.startswith(b"RIFF"):
        return "webp", "image/webp"
    if data[4:8] == b"ftyp":
        return "avif", "image/avif"
    return "bin", "application/octet-stream"


def fitted(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """RGB, uint8 (height, width, 3): scaled, and cut around the middle where the ratio differs."""
    fit = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.array(fit, dtype=np.uint8)


def fitted_mask(image: Image.Image, width: int, height: int) -> NDArray[np.float32]:
    """float32 (height, width) of luminance, 0 (black) to 1 (white), scaled and cut as `fitted`."""
    fit = ImageOps.fit(image.convert("L"), (width, height), Image.Resampling.LANCZOS)
    return np.array(fit, dtype=np.float32) / np.float32(255)


def _opened(data: bytes) -> Image.Image:
    """The file's picture, of which nothing is decoded yet."""
    if not data:
        raise PictureError("is empty")
    if len(data) > MAX_PICTURE_BYTES:
        most = f"{MAX_PICTURE_BYTES // 2**20} MiB"
        raise PictureError(f"has more than {most}: scale it down, or save it as JPEG")
    if data.startswith(_PNG_SIGNATURE):
        _judge_png(data)
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise PictureError("is a JPEG of too many scans: save it anew")
    if data[4:8] == b"ftyp":
        _judge_avif(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise PictureError(_NO_PICTURE) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("far more") from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise _too_large(f"{image.width}x{image.height}")
    if getattr(image, "n_frames", 1) != 1:
        raise PictureError("has several frames: send one of them, as a file of its own")
    return image


def _too_large(size: str) -> PictureError:
    most = f"{MAX_IMAGE_PIXELS // 2**20} megapixels"
    return PictureError(f"has {size} pixels, and at most {most} are taken: scale it down")


def _judge_avif(data: bytes) -> None:
    """Refuse a stream that holds more than the file says, before a decoder makes room for it."""
    try:
        pixels = avif.pixels_of(data)
    except ValueError as error:
        if data[8:12] not in _AVIF_BRANDS:  # an MP4 and a phone's HEIC begin alike
            raise PictureError(_NO_PICTURE) from error
        raise PictureError("is no AVIF of one plain picture: save it anew, or as PNG") from error
    if pixels > MAX_IMAGE_PIXELS:
        raise _too_large("far more")


def _judge_png(data: bytes) -> None:
    """Refuse what would be unpacked, or take long, before Pillow reads a pixel."""
    metadata = 0
    for number, (kind, body) in enumerate(_png_chunks(data)):
        if number == 0 and (kind != b"IHDR" or len(body) != 13):
            raise PictureError("is a PNG without a header: save it anew")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
            if width * height > MAX_IMAGE_PIXELS:
                raise _too_large(f"{width}x{height}")
        if kind == b"acTL":
            raise PictureError("is an animated PNG: send one of its frames")
        if kind not in _PNG_PIXELS:
            metadata += len(body)
        metadata += _unpacked_bytes(kind, body)
        if metadata > MAX_METADATA_BYTES:
            raise PictureError("has more than 1 MiB of metadata: save it without")
        if number >= MAX_PNG_CHUNKS:
            raise PictureError("is a PNG in too many pieces: save it anew")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), len(_PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, view[at + 8 : at + 8 + length]
        if kind == b"IEND":  # nobody reads what is behind it
            return
        at += 12 + length


def _unpacked_bytes(kind: bytes, body: memoryview) -> int:
    """Of what is packed in a chunk, as far as that may go."""
    packed = b""
    if kind in (b"iCCP", b"zTXt"):  # a keyword, zero, the method; then what is packed
        packed = bytes(body).partition(b"\0")[2][1:]
    elif kind == b"iTXt":  # a keyword, zero, whether, the method, two more words with zeros
        flagged = bytes(body).partition(b"\0")[2]
        packed = (
            flagged[2:].partition(b"\0")[2].partition(b"\0")[2] if flagged[:1] != b"\0" else b""
        )
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_METADATA_BYTES + 1))
    except zlib.error:
        return 0


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; where that cannot be read, the picture is as it is."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        turn = None
    return image.transpose(turn) if turn is not None else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip
        return _grey_of_16_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.float32)
    grey = np.rint(levels / 257).astype(np.uint8)  # 65535 / 257 = 255
    if (clear := image.info.get("transparency")) is not None:
        grey[levels == clear] = 255
    return Image.fromarray(grey).convert("RGB")
