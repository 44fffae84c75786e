"""The proxy does to a line what it says; without a fault it passes everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.faults.proxy import HOST, FaultProxy

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """Before a server that answers each line with it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(b"told " + line)
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    async with FaultProxy(server.sockets[0].getsockname()[1]) as between:
        yield between
    server.close()


async def dial(proxy: FaultProxy) -> Line:
    return await asyncio.open_connection(HOST, proxy.port)


async def ask(line: Line, word: bytes) -> bytes:
    """The answer; empty where the line ended."""
    reader, writer = line
    answer = b""
    with suppress(ConnectionError):
        writer.write(word + b"\n")
        answer = await reader.readline()
    if not answer:
        writer.close()
    return answer


async def test_passes(proxy: FaultProxy) -> None:
    line = await dial(proxy)
    assert [await ask(line, b"a"), await ask(line, b"b")] == [b"told a\n", b"told b\n"]
    line[1].close()


async def test_frozen_it_is_silent_and_loses_nothing(proxy: FaultProxy) -> None:
    line = await dial(proxy)
    proxy.freeze()
    answer = asyncio.create_task(ask(line, b"a"))
    done, _ = await asyncio.wait([answer], timeout=0.2)
    assert not done
    proxy.heal()
    assert await answer == b"told a\n"
    line[1].close()


async def test_reset_ends_every_line_and_new_ones_work(proxy: FaultProxy) -> None:
    lines = [await dial(proxy) for _ in range(3)]
    assert [await ask(line, b"a") for line in lines] == [b"told a\n"] * 3
    proxy.reset()
    assert [await ask(line, b"b") for line in lines] == [b""] * 3
    again = await dial(proxy)
    assert await ask(again, b"c") == b"told c\n"
    again[1].close()


async def test_cuts_at_a_word_so_often(proxy: FaultProxy) -> None:
    seen: list[str] = []
    proxy.cut(b"told done", 1, lambda: seen.append("cut"))
    line = await dial(proxy)
    assert await ask(line, b"a") == b"told a\n"
    assert await ask(line, b"done") == b""
    assert (proxy.cuts, seen) == (1, ["cut"])
    again = await dial(proxy)
    assert await ask(again, b"done") == b"told done\n"
    again[1].close()


async def test_nobody_behind_it_ends_the_line() -> None:
    async with FaultProxy(1) as between:
        assert await ask(await dial(between), b"a") == b""
