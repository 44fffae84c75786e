"""Frames that no gRPC client would send, without end: who sends them hurts nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.door_stack import resident_bytes
from tests.fuzz.stack import Target, running
from tests.support.databases import another_database
from tests.support.http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    EMPTY_MESSAGE,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    call,
    frame,
    header_block,
    line_to,
)

COUNT, TOGETHER = 2_000, 100
MOST_BYTES = 150 * 2**20  # of all floods; a reset call costs 11 KB until its task is gone
CHECK, WATCH = (f"/grpc.health.v1.Health/{method}" for method in ("Check", "Watch"))


def reset(number: int) -> bytes:
    stream = 2 * number + 1
    return (
        frame(HEADERS, END_HEADERS, stream, call(CHECK))
        + frame(DATA, END_STREAM, stream, EMPTY_MESSAGE)
        + frame(RST_STREAM, 0, stream, CANCEL)
    )


def watch(number: int) -> bytes:
    stream = 2 * number + 1
    opened = frame(HEADERS, END_HEADERS, stream, call(WATCH))
    return opened + frame(DATA, END_STREAM, stream, EMPTY_MESSAGE)


def continuation(number: int) -> bytes:
    begun = frame(HEADERS, 0, 1, call(CHECK)) if number == 0 else b""
    return begun + frame(CONTINUATION, 0, 1, header_block([("x", "y" * 200)]))


def empty_data(number: int) -> bytes:
    begun = frame(HEADERS, END_HEADERS, 1, call(CHECK)) if number == 0 else b""
    return begun + frame(DATA, 0, 1)


# By whether what comes back is read, too.
FLOODS: dict[str, tuple[Callable[[int], bytes], bool]] = {
    "calls that are reset at once": (reset, True),
    "pings": (lambda number: frame(PING, payload=number.to_bytes(8, "big")), True),
    "settings whose answers nobody reads": (lambda number: frame(SETTINGS), False),
    "headers that never end": (continuation, True),
    "messages of nothing": (empty_data, True),
    "streams that nobody reads": (watch, False),
}


@pytest.fixture(scope="module")
def target(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with running(another_database(postgres), tmp_path_factory.mktemp("http2")) as started:
        yield started


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_frames_hurts_nobody_else(target: Target, name: str) -> None:
    flood, reads = FLOODS[name]
    before, lines = resident_bytes(target.gateway.pid), len(target.gateway.log.read_text())
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target.gateway.address))
        health = health_pb2_grpc.HealthStub(channel)

        async def served() -> None:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

        async with line_to(target.gateway.address) as line:
            reading = asyncio.create_task(line.read()) if reads else None
            for first in range(0, COUNT, TOGETHER):
                if not await line.send(b"".join(map(flood, range(first, first + TOGETHER)))):
                    break  # it was closed: that is an answer, too
                await served()
            if name == "pings":
                assert reading
                async with asyncio.timeout(10):
                    await reading
                assert line.goaway == b"too_many_pings"
            if reading:
                reading.cancel()
        await served()
    assert resident_bytes(target.gateway.pid) - before < MOST_BYTES
    assert target.faults() == []
    assert len(target.gateway.log.read_text()) - lines < 10_000
