"""Pictures that callers bring: every way to harm, and every honest kind of file."""

import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atelier.pictures import (
    FORMATS,
    MAX_IMAGE_PIXELS,
    PictureError,
    fitted,
    fitted_mask,
    kind_of,
    picture_of,
)
from tests.support import hostile
from tests.support.hostile import HOSTILE, PNG, chunk, header, picture, saved

GOOD = {f: saved(picture(), f) for f in FORMATS}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    with pytest.raises(PictureError) as caught:
        picture_of(HOSTILE[name])
    assert str(caught.value).startswith(("is ", "has "))  # behind the field's name


@pytest.mark.parametrize("brand", [b"isom", b"iso5", b"heic"])
def test_a_film_is_not_called_an_avif(brand: bytes) -> None:
    with pytest.raises(PictureError, match="is no PNG, JPEG, WebP or AVIF"):
        picture_of(b"\0\0\0\x10ftyp" + brand + bytes(4) + b"\0\0\0\x08moov")


def test_no_room_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        picture_of(GOOD["JPEG"])


def test_bombs_are_refused_before_anything_is_made_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(image: Image.Image) -> None:
        pytest.fail("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for name in HOSTILE:
        if not name.startswith(("cut", "wrong")):
            with pytest.raises(PictureError):
                picture_of(HOSTILE[name])


@settings(max_examples=300)
@given(st.sampled_from(list(GOOD)), st.data())
def test_a_damaged_file_is_a_picture_or_a_picture_error(format_: str, data: st.DataObject) -> None:
    body = bytearray(GOOD[format_])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(body)))
    try:
        image = picture_of(bytes(body[:cut]))
    except PictureError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= MAX_IMAGE_PIXELS


@pytest.mark.parametrize("format_", FORMATS)
def test_each_format_is_what_it_shows(format_: str) -> None:
    image = picture_of(GOOD[format_])
    assert (image.mode, image.size) == ("RGB", (64, 48))
    off = np.abs(np.asarray(image, np.int16) - np.asarray(picture(), np.int16))
    assert off.mean() < (1 if format_ == "PNG" else 6)
    media = format_.lower()
    assert kind_of(GOOD[format_]) == ("jpg" if format_ == "JPEG" else media, f"image/{media}")


def test_in_many_threads_at_once() -> None:
    want = {f: picture_of(data).tobytes() for f, data in GOOD.items()}
    together = threading.Barrier(8)

    def work(number: int) -> bool:
        together.wait()
        for format_, data in [*GOOD.items()] * 5:
            if picture_of(data).tobytes() != want[format_]:
                return False
            with pytest.raises(PictureError):
                picture_of(HOSTILE["bomb of pixels"])
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_sixteen_megapixels_are_taken_and_a_row_more_is_not() -> None:
    assert picture_of(saved(Image.new("L", (4_096, 4_096)), "PNG")).size == (4_096, 4_096)
    with pytest.raises(PictureError, match="has 4096x4097 pixels, and at most 16 megapixels"):
        picture_of(saved(Image.new("L", (4_096, 4_097)), "PNG"))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_turned_as_its_exif_says(format_: str, turn: int) -> None:
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = turn
    got = picture_of(saved(image, format_, exif=exif, quality=95))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    want = image if turn == 1 else image.transpose(undo[turn])
    assert got.size == want.size
    off = np.abs(np.asarray(got, np.int16) - np.asarray(want, np.int16))
    assert off.mean() < 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_turns_nothing() -> None:
    data = saved(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert picture_of(data).size == (64, 48)


def pixel(data: bytes) -> tuple[int, ...]:
    found = picture_of(data).getpixel((0, 0))
    assert isinstance(found, tuple)
    return found


def png16(colour: int, samples: list[int], *extra: bytes) -> bytes:
    """A PNG of one pixel, 16 bits a sample."""
    row = b"\0" + struct.pack(f">{len(samples)}H", *samples)
    body = [header(1, 1, 16, colour), *extra, chunk(b"IDAT", zlib.compress(row))]
    return PNG + b"".join(body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "want"),
    [
        pytest.param(png16(0, [0x8080]), (128, 128, 128), id="grey of 16 bits"),
        pytest.param(png16(0, [0xFFFF]), (255, 255, 255), id="white of 16 bits"),
        pytest.param(
            png16(0, [0x0102], chunk(b"tRNS", struct.pack(">H", 0x0102))),
            (255, 255, 255),
            id="clear grey of 16 bits",
        ),
        pytest.param(png16(2, [0x1010, 0x8080, 0xF0F0]), (16, 128, 240), id="RGB of 16 bits"),
        pytest.param(
            png16(2, [0x1010, 0x8080, 0xF0F0], chunk(b"tRNS", struct.pack(">3H", 1, 2, 300))),
            (16, 128, 240),
            id="RGB of 16 bits with a clear colour",
        ),
        pytest.param(png16(4, [0, 0x8080]), (127, 127, 127), id="half clear black of 16 bits"),
        pytest.param(png16(6, [0, 0, 0, 0]), (255, 255, 255), id="clear of 16 bits"),
        pytest.param(saved(Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255), id="one bit"),
        pytest.param(saved(Image.new("L", (4, 4), 9), "PNG"), (9, 9, 9), id="grey"),
        pytest.param(
            saved(Image.new("LA", (4, 4), (0, 0)), "PNG"), (255, 255, 255), id="clear grey"
        ),
        pytest.param(
            saved(Image.new("RGBA", (4, 4), (0, 0, 255, 51)), "PNG"), (204, 204, 255), id="RGBA"
        ),
        pytest.param(
            saved(Image.new("RGB", (4, 4)).quantize(), "PNG", transparency=0),
            (255, 255, 255),
            id="palette",
        ),
        pytest.param(
            saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100),
            (255, 0, 0),
            id="CMYK",
        ),
        pytest.param(saved(Image.new("L", (4, 4), 40), "JPEG"), (40, 40, 40), id="grey JPEG"),
        pytest.param(
            saved(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "WEBP", lossless=True),
            (255, 255, 255),
            id="clear WebP",
        ),
    ],
)
def test_colours(data: bytes, want: tuple[int, int, int]) -> None:
    assert np.abs(np.subtract(pixel(data), want)).max() <= 2


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_fitted_has_the_size_asked_for(w: int, h: int, width: int, height: int) -> None:
    image = Image.new("RGB", (w, h), (10, 200, 30))
    pixels, mask = fitted(image, width, height), fitted_mask(image, width, height)
    assert (pixels.shape, pixels.dtype) == ((height, width, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((height, width), np.float32)
    assert (pixels == (10, 200, 30)).all()


def test_another_ratio_is_cut_around_the_middle() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("white", (90, 0, 210, 100))
    assert (fitted(wide, 50, 50) == 255).all()
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert (fitted(tall, 50, 50) == 255).all()


def test_a_mask_is_one_where_it_is_white() -> None:
    mask = Image.new("RGB", (64, 64), "black")
    mask.paste("white", (32, 0, 64, 64))
    got = fitted_mask(mask, 32, 32)
    assert (got[:, :12] == 0).all()
    assert (got[:, 20:] == 1).all()
    assert 0 <= got.min() <= got.max() <= 1


def test_the_corpus_is_made_as_meant() -> None:
    """What is refused is refused for what is wrong with it: without that, it is taken."""
    assert picture_of(hostile.png()).size == (8, 8)
    assert picture_of(hostile.png(chunk(b"zTXt", b"a\0\0" + zlib.compress(b"hello")))).size == (
        8,
        8,
    )
    assert picture_of(hostile.webp_of(16, 16)).size == (16, 16)
    assert picture_of(hostile.jpeg_of(16, 16)).size == (16, 16)
