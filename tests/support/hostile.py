"""Files that somebody might send as a picture, and that none of us may take, all made here."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    """One of a PNG's."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def pixels(width: int, height: int, bytes_per_pixel: int = 3) -> bytes:
    rows = (b"\0" + b"\x80" * width * bytes_per_pixel) * height
    return chunk(b"IDAT", zlib.compress(rows, 9))


def png(*extra: bytes, behind: tuple[bytes, ...] = ()) -> bytes:
    """A good one of 8x8, with other chunks before and behind its pixels."""
    return b"".join([PNG, header(8, 8), *extra, pixels(8, 8), *behind, chunk(b"IEND", b"")])


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """No two pixels of a row, and no two rows, alike."""
    red = Image.linear_gradient("L").resize((width, height))
    blue = red.transpose(Image.Transpose.ROTATE_90).resize((width, height))
    return Image.merge("RGB", (red, Image.new("L", (width, height), 77), blue))


def animated(format_: str) -> bytes:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    return saved(frames[0], format_, save_all=True, append_images=frames[1:])


def webp_of(width: int, height: int) -> bytes:
    """Whose header says so, of a small one."""
    body = bytearray(saved(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    struct.pack_into("<I", body, 21, (width - 1) | (height - 1) << 14)
    return bytes(body)


def jpeg_of(width: int, height: int) -> bytes:
    """Whose header says so, of a small one."""
    body = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG"))
    struct.pack_into(">HH", body, body.index(b"\xff\xc0") + 5, height, width)
    return bytes(body)


def avif_of(width: int, height: int, *, said: tuple[int, int]) -> bytes:
    """Whose boxes say another size than its stream has."""
    body = bytearray(saved(Image.new("L", (width, height)), "AVIF", speed=10))
    at = -1
    while (at := body.find(b"ispe", at + 1)) >= 0:
        struct.pack_into(">II", body, at + 8, *said)
    return bytes(body)


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", png())
    return file.getvalue()


BOMB = zlib.compress(bytes(64 * 2**20), 9)  # 64 KiB
HOSTILE = {
    "nothing": b"",
    "text": b"a picture of a cat",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
    "zip": zip_file(),
    "bmp": saved(picture(), "BMP"),
    "tiff": saved(picture(), "TIFF"),
    "gif": saved(picture(), "GIF"),
    "animated gif": animated("GIF"),
    "animated webp": animated("WEBP"),
    "animated png": animated("PNG"),
    "animated avif": animated("AVIF"),
    "pictures in a jpeg": animated("MPO"),
    "bomb of a header": b"".join([PNG, header(60_000, 60_000), pixels(8, 8), chunk(b"IEND", b"")]),
    "second header": png(header(60_000, 60_000)),
    "header of nothing": b"".join([PNG, header(0, 0), pixels(8, 8), chunk(b"IEND", b"")]),
    "no header": b"".join([PNG, pixels(8, 8), chunk(b"IEND", b"")]),
    "signature alone": PNG,
    "bomb of pixels": b"".join([PNG, header(30_000, 30_000), chunk(b"IDAT", BOMB)]),
    "bomb of text": png(chunk(b"zTXt", b"Comment\0\0" + BOMB)),
    "bomb of text behind": png(behind=(chunk(b"zTXt", b"Comment\0\0" + BOMB),)),
    "bomb of many texts": png(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**17)))] * 9),
    "bomb of languages": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB)),
    "bomb of a profile": png(chunk(b"iCCP", b"icc\0\0" + BOMB)),
    "long text": png(chunk(b"tEXt", b"Comment\0" + b"a" * 2**21)),
    "long text in utf-8": png(chunk(b"iTXt", b"Comment\0\0\0\0\0" + b"a" * 2**21)),
    "many chunks": png(*[chunk(b"tEXt", b"a\0")] * 20_000),
    "webp of 16383x16383": webp_of(16_383, 16_383),
    "webp of 5000x5000": webp_of(5_000, 5_000),
    "jpeg of 65500x65500": jpeg_of(65_500, 65_500),
    "jpeg of 5000x5000": jpeg_of(5_000, 5_000),
    "avif of 5000x5000 that says 64x64": avif_of(5_000, 5_000, said=(64, 64)),
    "avif of 64x64 that says 9000x9000": avif_of(64, 64, said=(9_000, 9_000)),
    "many scans": saved(picture(), "JPEG", progressive=True)[:-2] + b"\xff\xda" * 101 + b"\xff\xd9",
    "cut png": saved(picture(), "PNG")[:-60],
    "cut jpeg": saved(picture(640, 480), "JPEG")[:-400],
    "cut webp": saved(picture(), "WEBP")[:-40],
    "cut avif": saved(picture(), "AVIF")[:-40],
    "wrong checksum": png()[:-20] + b"????" + png()[-16:],
    "too many bytes": png() + bytes(8 * 2**20),
}  # fmt: skip
