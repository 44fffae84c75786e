"""A receiver of webhooks, with all that can be wrong with one."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

# Longer than a lane's lease, for which deliveries wait where taking it was told to have failed.
PATIENCE_SECONDS = 60.0

Behave = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    peer: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        return json.loads(self.body)


def answering(
    status: int, *, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> Behave:
    async def behave(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return behave


async def silent(writer: asyncio.StreamWriter) -> None:
    """Takes the request, and never answers."""
    await asyncio.Event().wait()


async def reset(writer: asyncio.StreamWriter) -> None:
    """Cuts the line."""
    writer.transport.abort()


async def endless(writer: asyncio.StreamWriter) -> None:
    """200, and a body without end, as fast as it is read."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def dripping(writer: asyncio.StreamWriter) -> None:
    """200, and a byte of its body now and then."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


class Receiver:
    """Behaves as told by `then`, one after the other, and with 204 when nothing is left of it."""

    def __init__(
        self, *then: Behave, default: Behave | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.then = list(then)
        self.default = default or answering(204)
        self.received: list[Received] = []
        self.at_once = self.most_at_once = 0
        self._tls = tls
        self._news = asyncio.Condition()
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._called, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/hook"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._server.wait_closed()

    async def until(self, count: int, seconds: float = PATIENCE_SECONDS) -> list[Received]:
        """The requests, once there are so many."""
        async with asyncio.timeout(seconds), self._news:
            await self._news.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call
        self._calls.add(call)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller has had enough; or the test
        finally:
            self.at_once -= 1
            self._calls.discard(call)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        peer = str(writer.get_extra_info("peername")[0])
        async with self._news:
            self.received.append(Received(first.split(" ")[1], headers, body, peer))
            self._news.notify_all()
        await (self.then.pop(0) if self.then else self.default)(writer)
