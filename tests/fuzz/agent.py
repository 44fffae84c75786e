"""An agent with nobody behind it that does whatever it is told, at once: so that generations end,
and orders to devices are carried out, while a gateway is fuzzed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc

from atelier.generation import Failure
from atelier.rpc import channel
from atelier.translate import failure_to, provenance_to, result_to
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import agent_pb2_grpc, fleet_pb2, fleet_pb2_grpc, generation_pb2
from atelier.v1.generation_pb2_grpc import GenerationServiceStub
from tests.support.generations import BY, RESULT

CANCELLED = failure_to(Failure("CANCELLED", "CANCELLED", "as it was told"))


@asynccontextmanager
async def obedient(address: str) -> AsyncIterator[None]:
    """Connected to the scheduler at `address`, with one device, d0."""
    said: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
    facts = pb.DeviceFacts(id="d0", capacity_bytes=1_000, resident_models=["toy"])
    said.put_nowait(pb.ConnectRequest(hello=pb.Hello(node="n0", devices=[facts])))

    async def saying() -> AsyncIterator[pb.ConnectRequest]:
        while True:
            yield await said.get()

    held = {"toy"}

    async def obey() -> None:
        async for command in call:
            for answer in _answers(command, held):
                said.put_nowait(answer)

    async def report() -> None:
        while True:
            await asyncio.sleep(0.5)
            sample = pb.DeviceSample(device_id="d0", healthy=True, resident_models=held)
            said.put_nowait(pb.ConnectRequest(device_report=pb.DeviceReport(samples=[sample])))

    async with channel(address, own_connection=True) as line:
        call = agent_pb2_grpc.AgentServiceStub(line).Connect(saying(), wait_for_ready=True)
        tasks = [asyncio.create_task(one()) for one in (obey, report)]
        try:
            yield
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def one_is_made(gateway: grpc.aio.Channel, key: str) -> bool:
    """Whether a generation comes to its end, through all that was fuzzed."""
    metadata = [("authorization", f"Bearer {key}")]
    fleet, door = fleet_pb2_grpc.FleetServiceStub(gateway), GenerationServiceStub(gateway)
    # Whatever was ordered before.
    await fleet.UndrainDevice(fleet_pb2.UndrainDeviceRequest(device_id="d0"), metadata=metadata)
    image = generation_pb2.ImageSpec(prompt="a ring")
    create = generation_pb2.CreateGenerationRequest(model="toy", image=image)
    wish = generation_pb2.GenerateRequest(create=create)
    states = [
        view.generation.state async for view in door.Generate(wish, timeout=60, metadata=metadata)
    ]
    return states[-1] == generation_pb2.GENERATION_STATE_SUCCEEDED


def _answers(command: pb.ConnectResponse, held: set[str]) -> list[pb.ConnectRequest]:
    match command.WhichOneof("message"):
        case "run":
            done = pb.AttemptSucceeded(
                attempt=command.run.attempt,
                results=[result_to(RESULT)],
                provenance=provenance_to(BY),
            )
            return [pb.ConnectRequest(succeeded=done)]
        case "cancel":
            ended = pb.AttemptFailed(
                attempt=command.cancel.attempt, failure=CANCELLED, cancelled=True
            )
            return [pb.ConnectRequest(failed=ended)]
        case "load_model":
            held.add(command.load_model.model)
            return [_changed(command.load_model.model, resident=True)]
        case "unload_model":
            held.discard(command.unload_model.model)
            return [_changed(command.unload_model.model, resident=False)]
        case "recycle_device":
            return [pb.ConnectRequest(device_recycled=pb.DeviceRecycled(device_id="d0"))]
        case "probe_device":
            return [pb.ConnectRequest(device_probed=pb.DeviceProbed(device_id="d0"))]
    return []


def _changed(model: str, *, resident: bool) -> pb.ConnectRequest:
    change = pb.ModelChanged(device_id="d0", model=model, resident=resident, seconds=0.01)
    return pb.ConnectRequest(model_changed=change)
