"""What an AVIF really holds, whatever its boxes say."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atelier.avif import _MOST, _pixels, pixels_of
from tests.support.hostile import animated, avif_of, saved

PLAIN = saved(Image.new("RGBA", (64, 48), (1, 2, 3, 90)), "AVIF", speed=10)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (333, 17), (2_048, 1_025)])
def test_an_honest_file_has_what_it_says(mode: str, size: tuple[int, int]) -> None:
    for subsampling in ("4:2:0", "4:4:4"):
        data = saved(Image.new(mode, size), "AVIF", speed=10, subsampling=subsampling)
        assert pixels_of(data) == size[0] * size[1]


def test_a_liar_has_what_its_stream_says() -> None:
    assert pixels_of(avif_of(640, 480, said=(2, 2))) == 640 * 480
    assert pixels_of(avif_of(2, 2, said=(640, 480))) == 4


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(animated("AVIF"), id="a sequence"),
        pytest.param(PLAIN.replace(b"av01", b"grid"), id="tiles"),
        pytest.param(PLAIN.replace(b"av01", b"jpeg"), id="nothing that is coded so"),
        pytest.param(PLAIN[:-1], id="cut"),
        pytest.param(PLAIN + struct.pack(">I4s", 9, b"free"), id="cut behind"),
        pytest.param(PLAIN + struct.pack(">I4s", 8, b"meta"), id="two of what there is one of"),
        pytest.param(PLAIN + struct.pack(">I4s", 8, b"free") * _MOST, id="many boxes"),
        pytest.param(b"\0\0\0\x08ftyp", id="nothing"),
    ],
)
def test_what_is_not_one_plain_picture(data: bytes) -> None:
    with pytest.raises(ValueError):
        pixels_of(data)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def of_items(locations: bytes, *, wide: int, items: int) -> bytes:
    """A file whose items lie where `locations`, what is behind the head of iloc, says."""
    kinds = (struct.pack(">IHH4sx", 2 << 24, item, 0, b"av01") for item in range(1, items + 1))
    named = b"".join(box(b"infe", kind) for kind in kinds)
    iinf = box(b"iinf", struct.pack(">IH", 0, items) + named)
    head = struct.pack(">IBBH", 0, wide << 4 | wide, 0, items)
    meta = box(b"meta", bytes(4) + iinf + box(b"iloc", head + locations))
    return box(b"ftyp", b"avif") + meta


def test_a_small_file_does_not_make_much_work() -> None:
    """As first written, 6 KB of these took more than a minute of a thread."""
    of_no_bytes = struct.pack(">HHH", 1, 0, 65_535)  # each piece: no offset, no length
    with pytest.raises(ValueError, match="too many pieces"):
        pixels_of(of_items(of_no_bytes, wide=0, items=1))
    the_whole_file_twice = struct.pack(">HHH", 1, 0, 2) + bytes(16)
    with pytest.raises(ValueError, match="share their bytes"):
        pixels_of(of_items(the_whole_file_twice, wide=4, items=1))


@settings(max_examples=500)
@given(st.data())
def test_any_damage_is_told_as_such(data: st.DataObject) -> None:
    body = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert pixels_of(bytes(body[: data.draw(st.integers(1, len(body)))])) > 0
    except ValueError:
        return


def bits(*fields: tuple[int, int]) -> bytes:
    """(value, how many bits) in a row, to whole bytes."""
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def test_frames_that_may_be_larger_than_the_header_says() -> None:
    size = ((9, 4), (9, 4), (639, 10), (479, 10))  # 10 bits for each side
    assert _pixels(bits((0, 3), (1, 1), (1, 1), (0, 5), *size)) == 640 * 480
    free = ((0, 3), (1, 1), (0, 1), (0, 1), (1, 1), (1, 5))
    points = ((0, 12), (8, 5), (1, 1), (1, 1), (3, 4), (0, 12), (7, 5), (0, 1))
    assert _pixels(bits(*free, *points, *size)) == 1_024 * 1_024 // 4
    liar = ((15, 4), (15, 4), (63, 16), (63, 16))
    assert _pixels(bits(*free, *points, *liar)) == 2**30
    with pytest.raises(ValueError, match="clock"):
        _pixels(bits((0, 3), (1, 1), (0, 1), (1, 1), (0, 40)))
    with pytest.raises(ValueError, match="cut short"):
        _pixels(b"\x18")
