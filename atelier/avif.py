"""How large the pictures in an AVIF really are. Pure.

An AVIF says its size twice: in its boxes, which is what readers are shown, and in the AV1 stream,
which is what a decoder makes room for, and scales down. A kilobyte that calls itself 64x64 may be
decoded to gigabytes. So this reads the streams' own headers: of every item that a decoder could be
given, in the plain layout that encoders write; what is laid out otherwise is refused.

Boxes: ISO/IEC 14496-12 and 23008-12; stream headers: AV1 specification, 5.3 to 5.5.
"""

from __future__ import annotations

from collections.abc import Iterator

_DERIVED = frozenset({b"grid", b"iovl", b"iden", b"sato"})  # pictures put together from others
_SEQUENCE_HEADER = 1  # among the kinds of OBU
_MOST = 1_000  # boxes in one, items, or OBUs of one: plain pictures have ten
_MOST_EXTENTS = 64  # of all items: a plain picture has one for each, and a few items
_MOST_HEADER_BYTES = 128


def pixels_of(data: bytes) -> int:
    """The most pixels that a decoder could make room for, or a quarter of that.

    Raises:
        ValueError: the file is not laid out as a single picture is.
    """
    try:
        top = _boxes(data, 0, len(data), once=(b"ftyp", b"meta", b"moov"))
        if b"moov" in top:
            raise ValueError("a sequence")
        begin, end = top[b"meta"]
        inner = _boxes(data, begin + 4, end, once=(b"iinf", b"iloc", b"idat"))
        kinds = _kinds(data, *inner[b"iinf"])
        if _DERIVED & set(kinds.values()):
            raise ValueError("a picture of several")
        largest = 0
        coded = {item for item, kind in kinds.items() if kind == b"av01"}
        for stream in _streams(data, inner[b"iloc"], inner.get(b"idat"), coded):
            largest = max(largest, _largest_in(stream))
    except (IndexError, KeyError) as error:
        raise ValueError("cut short") from error
    if not largest:
        raise ValueError("nothing that AV1 has coded")
    return largest


def _boxes(
    data: bytes, at: int, end: int, *, once: tuple[bytes, ...] = ()
) -> dict[bytes, tuple[int, int]]:
    """Where the contents of each kind of box begin and end; of several of a kind, the last."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, begin, stop in _each_box(data, at, end):
        if kind in found and kind in once:
            raise ValueError("a box twice")
        found[kind] = (begin, stop)
    return found


def _each_box(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(_MOST):
        if at == end:
            return
        size, kind, begin = _number(data, at, 4), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, begin = _number(data, at + 8, 8), at + 16
        stop = end if size == 0 else at + size
        if not begin <= stop <= end:
            raise ValueError("a box beyond its place")
        yield kind, begin, stop
        at = stop
    raise ValueError("too many boxes")


def _kinds(data: bytes, at: int, end: int) -> dict[int, bytes]:
    """The kind of each item, from the box iinf."""
    at += 6 if data[at] == 0 else 8
    kinds = {}
    for kind, begin, _ in _each_box(data, at, end):
        if kind != b"infe":
            continue
        wide = 4 if data[begin] == 3 else 2
        item = _number(data, begin + 4, wide)
        if data[begin] not in (2, 3) or item in kinds:
            raise ValueError("an item twice, or of another version")
        kinds[item] = data[begin + 6 + wide : begin + 10 + wide]
    return kinds


def _streams(
    data: bytes, iloc: tuple[int, int], idat: tuple[int, int] | None, items: set[int]
) -> Iterator[bytes]:
    """The bytes of each of these items, from the box iloc, wherever they lie."""
    at = iloc[0]
    version = data[at]
    if version > 2:
        raise ValueError("another version")
    offset_wide, length_wide = data[at + 4] >> 4, data[at + 4] & 15
    base_wide, index_wide = data[at + 5] >> 4, data[at + 5] & 15 if version else 0
    wide = 4 if version == 2 else 2
    count, at = _number(data, at + 6, wide), at + 6 + wide
    if count > _MOST:
        raise ValueError("too many items")
    left_extents, left_bytes = _MOST_EXTENTS, len(data)
    for _ in range(count):
        item, at = _number(data, at, wide), at + wide
        method = _number(data, at, 2) & 15 if version else 0
        at += 4 if version else 2  # the method, and in which file: always this one
        base, at = _number(data, at, base_wide), at + base_wide
        if method > 1 or (method == 1 and idat is None):
            raise ValueError("an item elsewhere")
        if idat is not None and method == 1:
            base += idat[0]
        extents, at = _number(data, at, 2), at + 2
        left_extents -= extents
        if left_extents < 0:  # they may take no bytes here, and then a small file has millions
            raise ValueError("too many pieces")
        pieces = []
        for _ in range(extents):
            at += index_wide
            offset, at = base + _number(data, at, offset_wide), at + offset_wide
            length, at = _number(data, at, length_wide), at + length_wide
            if at > iloc[1] or offset + length > len(data):
                raise ValueError("an item beyond its place")
            if item in items:
                pieces.append(data[offset : offset + length if length else len(data)])
                left_bytes -= len(pieces[-1])
            if left_bytes < 0:
                raise ValueError("items that share their bytes")
        if item in items:
            yield b"".join(pieces)


def _largest_in(stream: bytes) -> int:
    """The most pixels of a frame of this AV1 stream."""
    largest, at = 0, 0
    for _ in range(_MOST):
        if at >= len(stream):
            break
        head = stream[at]
        at += 2 if head & 4 else 1  # with an extension
        length = len(stream) - at
        if head & 2:
            length, at = _leb128(stream, at)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            largest = max(largest, _pixels(stream[at : at + length]))
        at += length
    if not largest or at < len(stream):
        raise ValueError("a stream without a header, or with too much behind it")
    return largest


def _pixels(header: bytes) -> int:
    """Of a sequence header. Where frames may be of other sizes, no more than an honest one has,
    and no less than a quarter of what any may have."""
    bits = _Bits(header[:_MOST_HEADER_BYTES])
    bits.take(4)  # profile, still picture
    reduced = bits.take(1)
    if reduced:
        bits.take(5)
    else:
        if bits.take(1):
            raise ValueError("a stream with a clock")
        delays = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delays and bits.take(1):
                bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    # A frame tells its own size in as many bits, and honest headers have no more than they need.
    return width * height if reduced else 1 << (width_bits + height_bits) >> 2


class _Bits:
    """The bits of some bytes, from the first."""

    def __init__(self, data: bytes) -> None:
        self._left = len(data) * 8
        self._all = int.from_bytes(data, "big")

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("cut short")
        self._left -= count
        return self._all >> self._left & ((1 << count) - 1)


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number of AV1's, and where it ends."""
    value = 0
    for n in range(8):
        value |= (data[at + n] & 127) << (7 * n)
        if data[at + n] < 128:
            return value, at + n + 1
    raise ValueError("a number without an end")


def _number(data: bytes, at: int, wide: int) -> int:
    if at + wide > len(data):
        raise ValueError("cut short")
    return int.from_bytes(data[at : at + wide], "big")
