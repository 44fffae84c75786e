"""The line to the scheduler: every call with a deadline, streams that outlive its restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from atelier.lines import line_to_peer
from atelier.tls import PeerFiles
from atelier.v1 import (
    access_store_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    preset_store_pb2_grpc,
    scheduler_pb2_grpc,
    tenant_store_pb2_grpc,
    webhook_store_pb2_grpc,
)
from atelier.v1 import scheduler_pb2 as pb
from gateway.submits import Submits, away

log = structlog.get_logger()

Q = TypeVar("Q")
A = TypeVar("A")

# CANCELLED is a scheduler that stops; a cancel of our own raises asyncio.CancelledError instead.
_TAKE_UP = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
REOPEN_SECONDS = (0.2, 0.5, 1.0, 2.0)  # pauses between tries to take a stream up again


class SchedulerClient:
    """Calls wait for a scheduler that is restarting, up to their deadline."""

    def __init__(
        self,
        address: str,
        call_timeout_seconds: float,
        peers: PeerFiles | None = None,
        server_name: str = "",
    ) -> None:
        self._channel = line_to_peer(address, peers, server_name, again=True)
        self._stub = scheduler_pb2_grpc.SchedulerServiceStub(self._channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self._channel)
        self.presets = preset_store_pb2_grpc.PresetStoreServiceStub(self._channel)
        self.tenants = tenant_store_pb2_grpc.TenantStoreServiceStub(self._channel)
        self.access = access_store_pb2_grpc.AccessStoreServiceStub(self._channel)
        self.webhooks = webhook_store_pb2_grpc.WebhookStoreServiceStub(self._channel)
        self._limit = call_timeout_seconds
        self._submits = Submits(self._submit_together, call_timeout_seconds)

    async def close(self) -> None:
        await self._channel.close()

    def _timeout(self, context: grpc.aio.ServicerContext | None) -> float:
        """What is left of the caller's deadline; ours where there is none."""
        left = context.time_remaining() if context else None
        return self._limit if left is None else max(0.0, min(left, self._limit))

    async def submit(self, request: pb.SubmitGenerationRequest) -> generation_pb2.Generation:
        """Goes with others. Whose own deadline is over is no longer waited for: gRPC cancels it.

        Raises:
            UnavailableError: it was not answered for as long as a call may take, also where it had
                to wait for the message before.
        """
        return await self._submits.submit(request)

    async def _submit_together(
        self, request: pb.SubmitGenerationsRequest
    ) -> pb.SubmitGenerationsResponse:
        answer: pb.SubmitGenerationsResponse = await self._stub.SubmitGenerations(
            request, timeout=self._limit, wait_for_ready=True
        )
        return answer

    async def submit_all(
        self, request: pb.SubmitGenerationsRequest, context: grpc.aio.ServicerContext
    ) -> list[pb.SubmitGenerationsAnswer]:
        """What became of each."""
        answer: pb.SubmitGenerationsResponse = await self.ask(
            self._stub.SubmitGenerations, request, context
        )
        return list(answer.answers)

    async def erase(
        self, tenant: str, generation_id: str, context: grpc.aio.ServicerContext
    ) -> None:
        """Forget one; one that is not there is no error, for the call may be made twice."""
        request = pb.EraseGenerationRequest(tenant=tenant, id=generation_id)
        try:
            await self.ask(self._stub.EraseGeneration, request, context)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    async def find(
        self,
        tenant: str,
        request_id: str,
        request_hash: bytes,
        context: grpc.aio.ServicerContext,
    ) -> generation_pb2.Generation | None:
        """What a request came to when it was sent before; None where it was not.

        Raises:
            AlreadyExistsError: its request_id was used for another.
        """
        request = pb.FindSubmissionRequest(
            tenant=tenant, request_id=request_id, request_hash=request_hash
        )
        try:
            answer: pb.FindSubmissionResponse = await self.ask(
                self._stub.FindSubmission, request, context
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return answer.generation

    async def read(
        self, tenant: str, generation_id: str, context: grpc.aio.ServicerContext
    ) -> generation_pb2.Generation:
        request = pb.ReadGenerationRequest(tenant=tenant, id=generation_id)
        answer: pb.ReadGenerationResponse = await self.ask(
            self._stub.ReadGeneration, request, context
        )
        return answer.generation

    async def scan(
        self, request: pb.ScanGenerationsRequest, context: grpc.aio.ServicerContext
    ) -> list[generation_pb2.Generation]:
        answer: pb.ScanGenerationsResponse = await self.ask(
            self._stub.ScanGenerations, request, context
        )
        return list(answer.generations)

    async def stop(
        self, tenant: str, generation_id: str, context: grpc.aio.ServicerContext
    ) -> generation_pb2.Generation:
        request = pb.StopGenerationRequest(tenant=tenant, id=generation_id)
        answer: pb.StopGenerationResponse = await self.ask(
            self._stub.StopGeneration, request, context
        )
        return answer.generation

    async def ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        context: grpc.aio.ServicerContext | None,
    ) -> A:
        """A call, within the caller's deadline; None: it is for several callers."""
        answer: A = await method(request, timeout=self._timeout(context), wait_for_ready=True)
        return answer

    async def follow(
        self, tenant: str, generation_id: str
    ) -> AsyncIterator[generation_pb2.Generation]:
        """Views of a generation until it is final, taken up again where the scheduler restarts.

        Raises:
            UnavailableError: no scheduler, or none that answers, for as long as a call may take.
        """
        request = pb.FollowGenerationRequest(tenant=tenant, id=generation_id)
        async with aclosing(self._stream(self._stub.FollowGeneration, request)) as answers:
            async for answer in answers:
                yield answer.generation

    async def watch_fleet(
        self, request: fleet_pb2.WatchFleetRequest
    ) -> AsyncGenerator[fleet_pb2.WatchFleetResponse, None]:
        """The fleet's course, taken up again, with another snapshot, where the scheduler restarts.

        Raises:
            UnavailableError: no scheduler, or none that answers, for as long as a call may take.
        """
        async with aclosing(self._stream(self.fleet.WatchFleet, request)) as answers:
            async for answer in answers:
                yield answer

    async def _stream(
        self, method: Callable[..., Any], request: Message
    ) -> AsyncGenerator[Any, None]:
        tries = 0
        while True:
            call = method(request, wait_for_ready=True)
            try:
                answer = await self._first(call)
                while answer is not grpc.aio.EOF:
                    tries = 0
                    yield answer
                    answer = await call.read()
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in _TAKE_UP or tries >= len(REOPEN_SECONDS):
                    raise
                log.info("stream taken up again", request=type(request).__name__)
                await asyncio.sleep(REOPEN_SECONDS[tries])
                tries += 1
            finally:
                call.cancel()

    async def _first(self, call: Any) -> Any:
        """The first answer comes at once, from whoever is there; later ones when there is news."""
        async with self._in_time():
            return await call.read()

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limit):
                yield
        except TimeoutError:
            raise away() from None
