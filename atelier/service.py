"""A process's life: start in order, serve, stop in reverse on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from atelier.rpc import SERVER_OPTIONS, ErrorInterceptor

log = structlog.get_logger()

STOP_GRACE_SECONDS = 3.0


async def until_stopped(stack: AsyncExitStack) -> None:
    """Wait for SIGTERM or SIGINT, then undo everything that was entered into `stack`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    log.info("stopping")
    await stack.aclose()


@asynccontextmanager
async def serving(
    address: str,
    services: Sequence[ServiceDescriptor],
    register: Callable[[grpc.aio.Server], None],
) -> AsyncIterator[health.aio.HealthServicer]:
    """Serve on `address` with health and reflection; on leaving, NOT_SERVING, then a short grace.

    Raises:
        RuntimeError: the address is taken.
    """
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[ErrorInterceptor()])
    register(server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = [service.full_name for service in services]
    reflection.enable_server_reflection(
        [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    server.add_insecure_port(address)
    await server.start()
    for name in ("", *names):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("serving", address=address)
    try:
        yield checks
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(STOP_GRACE_SECONDS)
