"""HTTP/2 by its frames (RFC 9113), to say what no gRPC client would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = (8).to_bytes(4, "big")
INITIAL_WINDOW_SIZE = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_MESSAGE = bytes(5)  # as gRPC frames it


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """By their numbers' names here."""
    pairs = [
        globals()[name].to_bytes(2, "big") + value.to_bytes(4, "big")
        for name, value in values.items()
    ]
    return frame(SETTINGS, payload=b"".join(pairs))


def header_block(headers: Iterable[tuple[str, str]]) -> bytes:
    """HPACK (RFC 7541), each literal and not to be indexed."""
    return b"".join(b"\0" + _text(name.encode()) + _text(value.encode()) for name, value in headers)


def _text(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, more = len(data) - 127, [127]
    while rest >= 128:
        more.append(rest % 128 + 128)
        rest //= 128
    return bytes([*more, rest]) + data


def call(path: str, *metadata: tuple[str, str]) -> bytes:
    """The header block of a gRPC call."""
    return header_block(
        [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
            ("te", "trailers"), ("content-type", "application/grpc"), *metadata,
        ]
    )  # fmt: skip


@dataclass
class Line:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    goaway: bytes = b""  # what the other side closed it with, if it said anything
    came: dict[int, int] = field(default_factory=dict)  # frames by kind

    async def send(self, data: bytes) -> bool:
        """Whether it could be sent: the other side may have closed it."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            return False
        return True

    async def read(self) -> None:
        """Whatever comes, until the other side closes."""
        try:
            while head := await self.reader.readexactly(9):
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                self.came[head[3]] = self.came.get(head[3], 0) + 1
                if head[3] == GOAWAY:
                    self.goaway = payload[8:]
        except (ConnectionError, asyncio.IncompleteReadError):
            return


@asynccontextmanager
async def line_to(address: str, **its_settings: int) -> AsyncIterator[Line]:
    """Connected, and it has said what it must."""
    host, port = address.split(":")
    line = Line(*await asyncio.open_connection(host, int(port)))
    try:
        await line.send(PREFACE + settings(**its_settings))
        yield line
    finally:
        line.writer.transport.abort()
