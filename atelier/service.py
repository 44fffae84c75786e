"""A process's life: start in order, serve, stop in reverse on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.metrics import Meter

from atelier.metrics import is_scraped
from atelier.rpc import MAX_MESSAGE_BYTES, SERVER_OPTIONS, ErrorInterceptor
from atelier.rpc_metrics import MeasuringInterceptor

log = structlog.get_logger()

T = TypeVar("T")

STOP_GRACE_SECONDS = 3.0


@asynccontextmanager
async def tasks(**loops: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Future[None]]:
    """Run the process's loops; on leaving, cancel them and wait until they are gone.

    Yields a future that fails with the error of the first loop that does: no loop dies unnoticed.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not failed.done():
            why = task.exception() or RuntimeError("it returned")
            error = RuntimeError(f"loop {task.get_name()} ended: {why!r}")
            error.__cause__ = task.exception()
            failed.set_exception(error)

    running = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]
    for task in running:
        task.add_done_callback(ended)
    try:
        yield failed
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if failed.done():
            failed.exception()  # seen
        else:
            failed.cancel()


async def unless_stopped(waiting: Awaitable[T]) -> T | None:
    """What `waiting` gives or raises; None where SIGTERM or SIGINT came first, which cancels it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    result, signalled = asyncio.ensure_future(waiting), asyncio.create_task(stop.wait())
    await asyncio.wait({result, signalled}, return_when=asyncio.FIRST_COMPLETED)
    if not result.done():
        log.info("stopping")
        result.cancel()
        await asyncio.wait({result})
    signalled.cancel()
    return None if result.cancelled() else result.result()


@asynccontextmanager
async def serving(
    address: str,
    services: Sequence[ServiceDescriptor],
    register: Callable[[grpc.aio.Server], object],
    max_request_bytes: int = MAX_MESSAGE_BYTES,
    meter: Meter | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    credentials: grpc.ServerCredentials | None = None,
    grace_seconds: Callable[[], float] = lambda: STOP_GRACE_SECONDS,
    most_streams: int | None = None,
) -> AsyncIterator[health.aio.HealthServicer]:
    """Serve on `address` with health and reflection; on leaving, NOT_SERVING, then a short grace.

    Args:
        meter: how long calls take goes there.
        grace_seconds: for calls under way when it stops, asked for then.
        most_streams: calls of one connection at a time; its client holds more of them back. None:
            no bound, as between parts, where one connection carries everybody's.

    Raises:
        RuntimeError: the address is taken.
    """
    options = {**dict(SERVER_OPTIONS), "grpc.max_receive_message_length": max_request_bytes}
    if most_streams is not None:
        options["grpc.max_concurrent_streams"] = most_streams
    # The errors' own is inside: what is measured is what the caller is told.
    measuring = [MeasuringInterceptor(meter)] if meter and is_scraped(meter) else []
    server = grpc.aio.server(
        options=[*options.items()], interceptors=[*measuring, ErrorInterceptor(), *interceptors]
    )
    register(server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = [service.full_name for service in services]
    reflection.enable_server_reflection(
        [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    if credentials:
        server.add_secure_port(address, credentials)
    else:
        server.add_insecure_port(address)
    await server.start()
    for name in ("", *names):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("serving", address=address)
    try:
        yield checks
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(grace_seconds())
