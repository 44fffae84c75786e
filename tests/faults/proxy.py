"""A TCP proxy between two parts that spoils the line: late, silent, reset, or cut at a word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tests.support.ports import free_port

HOST = "127.0.0.1"
BLOCK = 65_536

# PostgreSQL tells that a statement is carried out (and committed, where it commits by itself); an
# S3 server that it did what was asked.
COMMITTED = b"Z\x00\x00\x00\x05I"
STORED = b"HTTP/1.1 200"


class FaultProxy:
    """Passes bytes to a port of 127.0.0.1, or to a socket at a path; its own address is `address`.
    Faults concern all lines."""

    def __init__(self, to: int | str) -> None:
        self._to = to
        self.port = free_port()
        self.delay_seconds = 0.0
        self.cuts = 0  # lines that were cut
        self._cut_at: bytes | None = None
        self._cuts_left = 0
        self._then: Callable[[], None] = lambda: None
        self._first = asyncio.Event()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._lines: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self.heal()
        self._server.close()
        self.reset()
        await self._server.wait_closed()

    def freeze(self) -> None:
        """Accept and keep lines, and forward nothing: nobody is told that anything is wrong."""
        self._thawed.clear()

    def reset(self) -> None:
        """End all lines at once, with RST where there is something unread."""
        for line in list(self._lines):
            line.transport.abort()

    def cut(
        self, word: bytes, times: int, then: Callable[[], None] = lambda: None
    ) -> asyncio.Event:
        """Where a server's answer has `word`, call `then`, keep the answer and end the line; for
        the next `times` such answers. The event is set by the first."""
        self._cut_at, self._cuts_left, self._then = word, times, then
        self._first = asyncio.Event()
        return self._first

    def heal(self) -> None:
        self._thawed.set()
        self.delay_seconds = 0.0
        self._cut_at = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.add(writer)
        other: asyncio.StreamWriter | None = None
        ways: list[asyncio.Task[None]] = []
        try:
            answers, other = await (
                asyncio.open_connection(HOST, self._to)
                if isinstance(self._to, int)
                else asyncio.open_unix_connection(self._to)
            )
            self._lines.add(other)
            ways = [
                asyncio.create_task(self._pass(reader, other, answers=False)),
                asyncio.create_task(self._pass(answers, writer, answers=True)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # nobody listens there: the caller's line ends
        finally:
            for way in ways:
                way.cancel()
            for line in filter(None, (writer, other)):
                self._lines.discard(line)
                line.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(BLOCK):
                await self._thawed.wait()
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if answers and self._is_cut(data):
                    return
                writer.write(data)
                await writer.drain()

    def _is_cut(self, data: bytes) -> bool:
        if self._cut_at is None or self._cuts_left == 0 or self._cut_at not in data:
            return False
        self._cuts_left -= 1
        self.cuts += 1
        self._then()
        self._first.set()
        return True
