"""The stream to the scheduler: opened by the agent, opened again for ever when it breaks.

One conversation: Hello, Welcome, then three things at once until the stream ends: messages out of
the outbox are written, device reports are put into it, and what the scheduler says is obeyed.
Running work neither knows nor cares whether a conversation is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, Protocol

import grpc
import structlog

from agent.commands import Commands, StaleLeaderError
from agent.device import Device
from agent.host_memory import HostMemory
from agent.messages import NO_HOST, hello_to, report_to
from agent.outbox import Outbox
from atelier.rpc import channel
from atelier.tls import PeerFiles
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import agent_pb2_grpc

log = structlog.get_logger()

FIRST_PAUSE_SECONDS = 0.1  # doubled with every failure in a row
LONGEST_PAUSE_SECONDS = 1.0  # of a fail-over of seconds, not much may be slept through
WELCOME_SECONDS = 10.0
LEAST_REPORT_SECONDS = 0.1


class LinkLostError(Exception):
    """The scheduler ended the stream, or did not greet."""


_LOST = (
    LinkLostError,
    StaleLeaderError,
    TimeoutError,
    grpc.aio.AioRpcError,
    OSError,  # a certificate that is just being replaced
    asyncio.InvalidStateError,  # grpc.aio's word for writing to a stream that has ended
)


class Stream(Protocol):
    """One stream; `read` gives grpc.aio.EOF at its end."""

    async def read(self) -> Any: ...
    async def write(self, request: pb.ConnectRequest, /) -> None: ...


Connect = Callable[[], AbstractAsyncContextManager[Stream]]


def scheduler_at(address: str, peers: PeerFiles | None = None, name: str = "") -> Connect:
    """Opens streams to the scheduler at `address`.

    Args:
        peers: what is shown there, as it is at each time; None: the line is plain.
        name: that the scheduler's certificate must have; empty: the address's host.
    """

    @asynccontextmanager
    async def connect() -> AsyncIterator[Stream]:
        credentials = peers.of_client() if peers else None
        async with channel(
            address, own_connection=True, credentials=credentials, server_name=name
        ) as line:
            call = agent_pb2_grpc.AgentServiceStub(line).Connect()
            try:
                yield call
            finally:
                call.cancel()

    return connect


class Link:
    """Keeps a conversation with the scheduler going."""

    def __init__(
        self,
        node: str,
        devices: Mapping[str, Device],
        commands: Commands,
        outbox: Outbox,
        *,
        connect: Connect,
        rng: Random,
        host: HostMemory | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._node = node
        self._devices = devices
        self._commands = commands
        self._outbox = outbox
        self._connect = connect
        self._rng = rng
        self._host = host
        self._sleep = sleep
        self._failures = 0  # in a row

    async def run(self) -> None:
        """Converse, and connect again whenever that ends; for ever."""
        while True:
            try:
                async with self._connect() as stream:
                    await self.converse(stream)
            except _LOST as lost:
                log.warning("scheduler lost", reason=_reason(lost), failures=self._failures)
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10))
            self._failures += 1
            await self._sleep(pause * self._rng.uniform(0.5, 1.0))

    async def converse(self, stream: Stream) -> None:
        """One conversation; ends by raising.

        Raises:
            LinkLostError, StaleLeaderError, grpc.aio.AioRpcError: why it ended.
        """
        facts = await asyncio.gather(*(device.facts() for device in self._devices.values()))
        attempts = self._commands.attempts()  # nothing awaited between this and the write
        host = self._host.facts() if self._host else NO_HOST
        await stream.write(hello_to(self._node, facts, attempts, self._commands.epoch, host))
        async with asyncio.timeout(WELCOME_SECONDS):
            greeting = await stream.read()
        if greeting is grpc.aio.EOF or not greeting.HasField("welcome"):
            raise LinkLostError("the scheduler did not welcome us")
        self._commands.welcome(greeting.welcome)
        self._failures = 0
        log.info("connected to the scheduler", epoch=greeting.welcome.epoch)
        every = max(LEAST_REPORT_SECONDS, greeting.welcome.report_seconds)
        # No task group: one that fails while we are cancelled tells only of its failure (Python
        # 3.11), and we would connect again instead of ending.
        works = (self._write(stream), self._report(every), self._read(stream))
        tasks = [asyncio.create_task(work) for work in works]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, stream: Stream) -> None:
        while True:
            await stream.write(await self._outbox.get())

    async def _report(self, every_seconds: float) -> None:
        while True:
            devices = list(self._devices.values())
            samples = await asyncio.gather(*(device.sample() for device in devices))
            # What is resident may have changed while another device's sample was taken.
            current = [
                replace(sample, resident_models=device.resident)
                for device, sample in zip(devices, samples, strict=True)
            ]
            host = self._host.facts() if self._host else NO_HOST
            self._outbox.put("report", report_to(current, host))
            await self._sleep(every_seconds)

    async def _read(self, stream: Stream) -> None:
        while (message := await stream.read()) is not grpc.aio.EOF:
            self._commands.obey(message)
        raise LinkLostError("the scheduler ended the stream")


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
