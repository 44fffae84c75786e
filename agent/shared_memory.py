"""Tells a Triton of the memory that is shared with it, and no more once it cannot have it.

Where Triton runs on another host, in a container with a /dev/shm of its own, or as another user, it
cannot map what is told: that is logged once, and from then on tensors go through gRPC.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog
from tritonclient.grpc import service_pb2 as pb

from agent.buffers import PREFIX, Region, Shape, StepBuffers, StepRows
from agent.triton_errors import DIED
from atelier.errors import ExecutionError

log = structlog.get_logger()

CALL_SECONDS = 2.0
# After these nobody knows what Triton did, or does still.
UNANSWERED = ("DEVICE_TIMEOUT", "DEVICE_UNAVAILABLE", *DIED)

Call = Callable[[str, Any, float], Awaitable[Any]]  # method, request, timeout


class SharedMemory:
    """What one agent shares with one Triton."""

    def __init__(self, call: Call, buffers: StepBuffers | None = None) -> None:
        self._call = call
        self._buffers: StepBuffers | None = buffers or StepBuffers()  # None: nothing is shared
        self._swept = False  # of what an earlier agent left registered

    def rows(self, count: int, latents: Shape, text: Shape, masked: bool = False) -> StepRows:
        """Room for the rows of a step, shared where that can be."""
        if self._buffers:
            try:
                return self._buffers.rows(count, latents, text, masked)
            except OSError as error:
                self._give_up(str(error))
        return StepRows.empty(count, latents, text, masked)

    async def is_mapped(self, region: Region) -> bool:
        """Whether Triton has the region; it is told of it the first time.

        Raises:
            ExecutionError: it does not answer.
        """
        if region.registered or not self._buffers:
            return region.registered
        try:
            if not self._swept:
                await self._sweep()
                self._swept = True
            request = pb.SystemSharedMemoryRegisterRequest(
                name=region.name, key=f"/{region.name}", byte_size=region.size
            )
            await self._call("SystemSharedMemoryRegister", request, CALL_SECONDS)
            region.registered = True
            while self._buffers.outgrown:
                await self._unregister(self._buffers.outgrown.pop().name)
        except ExecutionError as error:
            if error.reason in UNANSWERED:
                self._buffers.abandon()  # it may have mapped it, or not
                raise
            self._give_up(error.message)
        finally:
            region.unlink()
        return region.registered

    def forgotten(self) -> None:
        """Its Triton is a new process: the next rows lie elsewhere, and it is told of that."""
        if self._buffers:
            self._buffers.abandon()

    async def close(self) -> None:
        """Unregister the region, unless a call may still be at work in it."""
        if self._buffers and (region := self._buffers.region):
            self._buffers.abandon()
            if region.registered and not region.busy:
                with suppress(ExecutionError):  # it is gone, and its mappings with it
                    await self._unregister(region.name)

    async def _sweep(self) -> None:
        """Unregister what an agent that was killed left behind."""
        request = pb.SystemSharedMemoryStatusRequest()
        answer = await self._call("SystemSharedMemoryStatus", request, CALL_SECONDS)
        for name in answer.regions:
            if name.startswith(PREFIX):
                await self._unregister(name)

    async def _unregister(self, name: str) -> None:
        request = pb.SystemSharedMemoryUnregisterRequest(name=name)
        await self._call("SystemSharedMemoryUnregister", request, CALL_SECONDS)

    def _give_up(self, why: str) -> None:
        log.warning("no memory is shared with triton: steps go through gRPC", reason=why)
        if self._buffers:
            self._buffers.abandon()
        self._buffers = None
