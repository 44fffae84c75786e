"""Channels between parts of ours, over a network that is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from atelier.rpc import channel

DELAY_SECONDS = 0.25  # of what the server says; half way round the world


@asynccontextmanager
async def far_away(port: int) -> AsyncIterator[str]:
    """A proxy to a port of loopback that makes its answers late."""

    async def pipe(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(delay)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, back, 0.0), pipe(there, writer, DELAY_SECONDS))

    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    yield f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    proxy.close()


@pytest.mark.parametrize("own_connection", [False, True])
async def test_a_connection_may_take_its_time(own_connection: bool) -> None:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with far_away(port) as address, channel(address, own_connection=own_connection) as line:
        answer = await health_pb2_grpc.HealthStub(line).Check(
            health_pb2.HealthCheckRequest(), timeout=20
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop(0)
