"""An agent by script: the real stream to a real scheduler, with nobody behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from atelier.generation import Failure
from atelier.rpc import channel
from atelier.translate import failure_to, provenance_to, result_to
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import agent_pb2_grpc
from tests.support.generations import BY, RESULT


class ScriptedAgent:
    """Connects on entering; `expect` waits for the next command of a kind."""

    def __init__(
        self,
        address: str,
        *,
        attempts: list[pb.Attempt] | None = None,
        resident: tuple[str, ...] = ("toy",),
        devices: tuple[str, ...] = ("d0",),
        capacity: int = 1_000,
        node: str = "n0",
    ) -> None:
        facts = [
            pb.DeviceFacts(id=d, hardware="none", capacity_bytes=capacity,
                           resident_models=resident)
            for d in devices
        ]  # fmt: skip
        self._hello = pb.Hello(node=node, devices=facts, attempts=attempts or [])
        self._address = address
        self._out: asyncio.Queue[pb.ConnectRequest | None] = asyncio.Queue()
        self._in: asyncio.Queue[pb.ConnectResponse] = asyncio.Queue()
        self.resident = resident

    async def __aenter__(self) -> Self:
        self._channel = channel(self._address, own_connection=True)  # as real ones do
        stub = agent_pb2_grpc.AgentServiceStub(self._channel)
        self.say(hello=self._hello)
        self._call = stub.Connect(self._requests(), wait_for_ready=True)
        self._reader = asyncio.create_task(self._read())
        # Through a fail-over: a lease, a frozen leader to be left, and a pause before the next try.
        self.welcome = (await self.expect("welcome", 25)).welcome
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._reader.cancel()
        self._call.cancel()
        await self._channel.close()

    def say(self, **message: object) -> None:
        self._out.put_nowait(pb.ConnectRequest(**message))  # type: ignore[arg-type]

    async def expect(self, kind: str, seconds: float = 10.0) -> pb.ConnectResponse:
        """The next command, which must be of this kind."""
        async with asyncio.timeout(seconds):
            command = await self._in.get()
        assert command.WhichOneof("message") == kind, command
        return command

    async def quiet(self, seconds: float = 0.6) -> None:
        """Nothing is commanded for a while."""
        await asyncio.sleep(seconds)
        assert self._in.empty(), self._in.get_nowait()

    def succeed(self, attempt: pb.Attempt, encode_seconds: float = 0.0) -> None:
        self.say(
            succeeded=pb.AttemptSucceeded(
                attempt=attempt,
                results=[result_to(RESULT)],
                provenance=provenance_to(BY),
                encode_seconds=encode_seconds,
            )
        )

    def fail(
        self,
        attempt: pb.Attempt,
        *,
        retryable: bool,
        cancelled: bool = False,
        reason: str = "SCRIPTED",
    ) -> None:
        why = Failure("INTERNAL", reason, "as the script says")
        self.say(
            failed=pb.AttemptFailed(
                attempt=attempt, failure=failure_to(why), retryable=retryable, cancelled=cancelled
            )
        )

    async def _requests(self) -> AsyncIterator[pb.ConnectRequest]:
        while (message := await self._out.get()) is not None:
            yield message

    async def _read(self) -> None:
        async for command in self._call:
            self._in.put_nowait(command)
