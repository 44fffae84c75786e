"""Triton's protocol over real gRPC, with the fakes' arithmetic behind it, and faults by script.

Memory that is registered is mapped from /dev/shm, read and written, as Triton does it: a tensor
that lies elsewhere than its call says, or that is written too early or too late, gives other rows.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from agent.buffers import OUTPUTS, SHARED_MEMORY, StepRows
from tests.support.lives import CARD
from tests.unit.agent.fakes import FakeTriton

GARBAGE = 1e30  # finite: only a comparison finds it
FAULTS = ("error", "memory", "lost", "restart", "crash")


class TritonOverGrpc(pb_grpc.GRPCInferenceServiceServicer):
    """One device. `happens` is asked at each call of a model for a fault:

    error    the call fails, and that is told
    memory   so too: there is none left for so many rows
    lost     no answer is heard; the model goes on, and writes into the call's memory later
    restart  a new process answers, which has no memory mapped
    crash    the model's process is dead, until it is loaded anew
    """

    def __init__(self, happens: Callable[[], str | None]) -> None:
        self.regions: dict[str, mmap.mmap] = {}
        self.shared_calls = self.copied_calls = 0
        self.complaints: list[str] = []  # what no client may do to it
        self._happens = happens
        self._model = FakeTriton()
        self._dead = self._inside = False
        self._lost: list[mmap.mmap] = []  # where a model writes of which nobody hears
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        await self._server.start()

    @property
    def registered(self) -> int:
        """Regions that are mapped by their names, but for those that a model may be at work in."""
        return sum(memory not in self._lost for memory in self.regions.values())

    async def stop(self) -> None:
        """Everything that it had mapped goes with it."""
        await self._server.stop(0)
        for memory in {*self.regions.values(), *self._lost}:
            memory.close()
        self.regions, self._lost = {}, []

    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        if request.name in self.regions:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "registered already")
        with (SHARED_MEMORY / request.key.lstrip("/")).open("r+b") as file:
            self.regions[request.name] = mmap.mmap(file.fileno(), request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        memory = self.regions.pop(request.name)
        if memory in self._lost:
            self.complaints.append("memory was taken from under a model at work")
        else:
            memory.close()
        return pb.SystemSharedMemoryUnregisterResponse()

    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        answer = pb.SystemSharedMemoryStatusResponse()
        for name in self.regions:
            answer.regions[name].name = name
        return answer

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        return pb.RepositoryModelUnloadResponse()

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        self._dead = False
        return pb.RepositoryModelLoadResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        if self._inside:
            self.complaints.append("two calls at once")
        self._inside = True
        try:
            return await self._infer(request, context)
        except (AssertionError, ValueError) as error:
            self.complaints.append(str(error))
            raise
        finally:
            self._inside = False

    async def _infer(self, request: Any, context: Any) -> Any:
        fault = self._happens()
        if fault == "restart":
            self._lost += self.regions.values()  # until then: it may have been at work
            self.regions = {}
        elif fault == "crash":
            self._dead = True
        if self._dead:
            await context.abort(grpc.StatusCode.INTERNAL, "Stub process 'toy' is not healthy.")
        if fault == "error":
            await context.abort(grpc.StatusCode.INTERNAL, "the model failed")
        if fault == "memory":
            await context.abort(grpc.StatusCode.INTERNAL, "CUDA error: out of memory")
        named = _region(request.inputs[0])
        if named and named not in self.regions:
            text = f"Unable to find shared memory region: '{named}'"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        if named and (SHARED_MEMORY / named).exists():
            self.complaints.append("what is mapped has a name still, which a crash would leave")
        if fault == "lost":
            self._lost += [self.regions[named]] if named else []
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        made = await self._step(request)
        for memory in self._lost:
            np.frombuffer(memory, np.float32)[:] = GARBAGE
        return self._answer(request, made)

    async def _step(self, request: Any) -> dict[str, Any]:
        given = {}
        for tensor, raw in zip(
            request.inputs, request.raw_input_contents or [None] * 6, strict=True
        ):
            array = self._at(tensor) if raw is None else np.frombuffer(raw, np.float32)
            given[tensor.name] = array.reshape(tensor.shape).copy()
        await asyncio.sleep(0)  # what the loop does meanwhile must not matter
        made = await self._model.step(CARD, "", StepRows(**given))
        return dict(zip(OUTPUTS, made, strict=True))

    def _answer(self, request: Any, made: dict[str, Any]) -> Any:
        answer = pb.ModelInferResponse(model_name=request.model_name)
        for tensor in request.outputs:
            array = made[tensor.name]
            answer.outputs.add(name=tensor.name, datatype="FP32", shape=array.shape)
            if _region(tensor):
                self._at(tensor)[:] = array.ravel()
            else:
                answer.raw_output_contents.append(array.tobytes())
        if answer.raw_output_contents:
            self.copied_calls += 1
        else:
            self.shared_calls += 1
        return answer

    def _at(self, tensor: Any) -> Any:
        """Where a tensor lies in shared memory."""
        size = tensor.parameters["shared_memory_byte_size"].int64_param
        offset = tensor.parameters["shared_memory_offset"].int64_param
        return np.frombuffer(self.regions[_region(tensor)], np.float32, size // 4, offset)


def _region(tensor: Any) -> str:
    return str(tensor.parameters["shared_memory_region"].string_param)
