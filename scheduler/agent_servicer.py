"""AgentService: the agents' lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from atelier.errors import InvalidArgumentError, UnavailableError, Violation
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import agent_pb2_grpc as pb_grpc
from scheduler.fleet import Fleet
from scheduler.lines import Line, Lines
from scheduler.peers import Peers
from scheduler.reports import Reports


class AgentServicer(pb_grpc.AgentServiceServicer):
    """Holds each stream, from its Hello until it breaks."""

    def __init__(
        self,
        lines: Lines,
        fleet: Fleet,
        reports: Reports,
        *,
        report_seconds: float,
        peers: Peers | None = None,
    ) -> None:
        """peers: tells whose node it is; None: on loopback, whoever says so."""
        self._lines = lines
        self._fleet = fleet
        self._reports = reports
        self._report_seconds = report_seconds
        self._peers = peers

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ConnectResponse]:
        hello = _checked(await anext(request_iterator, pb.ConnectRequest()))
        if self._peers:
            self._peers.check_node(hello.node, context)
        if hello.epoch > self._lines.epoch:
            raise UnavailableError("a newer scheduler leads", reason="STALE_LEADER")
        line, revoked = self._fleet.join(hello)
        listener = asyncio.create_task(self._listen(line, request_iterator))
        try:
            yield pb.ConnectResponse(
                welcome=pb.Welcome(
                    epoch=self._lines.epoch, report_seconds=self._report_seconds, revoked=revoked
                )
            )
            while (command := await line.outgoing.get()) is not None:
                yield command
        finally:
            listener.cancel()
            self._fleet.leave(line)

    async def _listen(self, line: Line, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        try:
            async for message in requests:
                self._reports.hear(line, message)
        finally:
            line.end()


def _checked(first: pb.ConnectRequest) -> pb.Hello:
    """The Hello that a stream must begin with.

    Raises:
        InvalidArgumentError: it is none, or names are missing or cannot be stored.
    """
    hello, bad = first.hello, []
    if first.WhichOneof("message") != "hello":
        bad.append(Violation("hello", "must be the first message"))
    elif not hello.node or "\0" in hello.node:
        bad.append(Violation("hello.node", "must not be empty, nor contain the character NUL"))
    if any(not device.id or "\0" in device.id for device in hello.devices):
        bad.append(Violation("hello.devices.id", "must not be empty, nor contain NUL"))
    if bad:
        raise InvalidArgumentError(bad)
    return hello
