"""FleetService of a real scheduler process: what operators see, and what their orders do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from atelier.cli import fleet as fleet_commands
from atelier.cli.problems import ProblemError
from atelier.cli.where import Gateway
from atelier.generation import Priority
from atelier.status import from_rpc_error
from atelier.translate import generation_to
from atelier.v1 import agent_pb2, fleet_pb2_grpc, generation_pb2, scheduler_pb2, scheduler_pb2_grpc
from atelier.v1 import fleet_pb2 as pb
from tests.support.agent import ScriptedAgent
from tests.support.generations import generation
from tests.support.processes import Process, scheduler_process

Stub = fleet_pb2_grpc.FleetServiceStub
MODELS = ("toy", "toy-two", "other")  # of 100 bytes each, and 10 a row


@pytest.fixture
def scheduler(dsn: str, tmp_path: Path) -> Iterator[Process]:
    with scheduler_process(dsn, tmp_path, models=MODELS, agent_grace_seconds=1.0) as process:
        yield process


@asynccontextmanager
async def fleet_of(scheduler: Process) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(scheduler.address) as channel:
        yield Stub(channel)


@pytest.fixture
async def fleet(scheduler: Process) -> AsyncIterator[Stub]:
    async with fleet_of(scheduler) as stub:
        yield stub


async def submit(scheduler: Process, **changes: Any) -> str:
    message = generation_to(generation(**changes))
    async with grpc.aio.insecure_channel(scheduler.address) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        request = scheduler_pb2.SubmitGenerationRequest(generation=message, request_hash=b"h")
        return (await stub.SubmitGeneration(request)).generation.id


async def devices(fleet: Stub) -> dict[str, pb.Device]:
    answer = await fleet.ListDevices(pb.ListDevicesRequest(), wait_for_ready=True)
    return {device.id: device for device in answer.devices}


async def until(fleet: Stub, holds: Callable[[pb.Device], bool]) -> pb.Device:
    """The device d0, once it is so."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        device = (await devices(fleet))["d0"]
        if holds(device):
            return device
        await asyncio.sleep(0.02)
    raise TimeoutError(f"it is {device}")


async def refusal(call: Awaitable[Any]) -> tuple[str, str, str]:
    """Code, reason and message of what must be refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    error = from_rpc_error(refused.value)
    assert error, refused.value
    return error.code, error.reason, error.message


def loaded(model: str, device_id: str = "d0") -> agent_pb2.ModelChanged:
    return agent_pb2.ModelChanged(device_id=device_id, model=model, resident=True)


# What is seen.


async def test_a_device_shows_what_runs_there_at_which_step(
    scheduler: Process, fleet: Stub
) -> None:
    async with ScriptedAgent(scheduler.address, capacity=400) as agent:
        made = await submit(scheduler, priority=Priority.INTERACTIVE)
        attempt = (await agent.expect("run")).run.attempt
        agent.say(
            progress=agent_pb2.AttemptProgress(
                attempt=attempt, phase=generation_pb2.PHASE_DENOISING, step=3, total_steps=4
            )
        )
        device = await until(fleet, lambda device: device.running[0].step > 0)
        [running] = device.running
        assert (running.id, running.model, running.shape) == (made, "toy", "64x64")
        assert (running.step, running.total_steps, running.rows) == (3, 4, 1)
        assert running.phase == generation_pb2.PHASE_DENOISING
        assert running.priority == generation_pb2.PRIORITY_INTERACTIVE
        assert (device.capacity_bytes, device.reserved_bytes) == (400, 110)
        assert device.free_bytes == 400 * 0.95 - 110


async def test_what_the_driver_tells_is_shown(scheduler: Process, fleet: Stub) -> None:
    async with ScriptedAgent(scheduler.address) as agent:
        sample = agent_pb2.DeviceSample(
            device_id="d0", healthy=True, resident_models=["toy"], measured_bytes=120,
            free_bytes=880, temperature_celsius=61, power_watts=250.5,
            xids=[agent_pb2.XidEvent(code=31, age_seconds=1)],
        )  # fmt: skip
        agent.say(device_report=agent_pb2.DeviceReport(samples=[sample]))
        device = await until(fleet, lambda device: device.measured_bytes > 0)
        assert (device.measured_bytes, device.measured_free_bytes) == (120, 880)
        assert (device.temperature_celsius, device.power_watts) == (61, 250.5)
        assert list(device.xids) == [31]


async def test_queues_tell_their_classes(scheduler: Process, fleet: Stub) -> None:
    for priority in (Priority.BATCH, Priority.INTERACTIVE, Priority.BATCH):
        await submit(scheduler, priority=priority)
    [queue] = (await fleet.ListQueues(pb.ListQueuesRequest())).queues
    assert (queue.model, queue.shape, queue.depth) == ("toy", "64x64", 3)
    assert [(c.priority, c.depth) for c in queue.classes] == [
        (generation_pb2.PRIORITY_INTERACTIVE, 1),
        (generation_pb2.PRIORITY_BATCH, 2),
    ]
    assert queue.oldest_wait_seconds == queue.classes[1].oldest_wait_seconds >= 0


async def test_the_trace_tells_each_decision_and_why(scheduler: Process, fleet: Stub) -> None:
    async with ScriptedAgent(scheduler.address, resident=("other",), capacity=150) as agent:
        made = await submit(scheduler)
        assert (await agent.expect("unload_model")).unload_model.model == "other"
        await agent.expect("load_model")
        agent.say(model_changed=loaded("toy"))
        await agent.expect("run")
        trace = await fleet.GetTrace(pb.GetTraceRequest())
        load, run = trace.decisions
        assert (load.kind, load.model, load.device_id) == (pb.DECISION_KIND_LOAD, "toy", "d0")
        assert list(load.evicted_models) == ["other"]
        assert (run.kind, run.generation_id, run.model) == (pb.DECISION_KIND_RUN, made, "toy")
        assert (load.sequence, run.sequence) == (1, 2)
        assert load.reason and run.reason
        assert load.time.ToNanoseconds() <= run.time.ToNanoseconds()
        assert f"d0{{run={made}" in trace.state_line
        [last] = (await fleet.GetTrace(pb.GetTraceRequest(limit=1))).decisions
        assert last == run


# Drains.


async def test_a_drained_device_finishes_and_takes_no_more(scheduler: Process, fleet: Stub) -> None:
    async with ScriptedAgent(scheduler.address) as agent:
        await submit(scheduler)
        attempt = (await agent.expect("run")).run.attempt
        answer = await fleet.DrainDevice(pb.DrainDeviceRequest(device_id="d0", reason="new fans"))
        assert answer.device.state == pb.DEVICE_STATE_DRAINING
        assert answer.device.reason == answer.device.drain_reason == "new fans"
        waits = await submit(scheduler)
        await agent.quiet()
        agent.succeed(attempt)
        await agent.expect("settled")
        await until(fleet, lambda device: device.state == pb.DEVICE_STATE_DRAINED)
        await agent.quiet()
        answer = await fleet.UndrainDevice(pb.UndrainDeviceRequest(device_id="d0"))
        assert (answer.device.state, answer.device.drain_reason) == (pb.DEVICE_STATE_READY, "")
        assert (await agent.expect("run")).run.attempt.generation_id == waits


async def test_draining_again_keeps_the_reason(scheduler: Process, fleet: Stub) -> None:
    async with ScriptedAgent(scheduler.address):
        for reason in ("new fans", ""):
            order = pb.DrainDeviceRequest(device_id="d0", reason=reason)
            assert (await fleet.DrainDevice(order)).device.reason == "new fans"


async def test_orders_outlive_the_scheduler_and_the_device(scheduler: Process, fleet: Stub) -> None:
    async with ScriptedAgent(scheduler.address, devices=("d0", "d1")) as agent:
        await fleet.DrainDevice(pb.DrainDeviceRequest(device_id="d0", reason="new fans"))
        await fleet.PinModel(pb.PinModelRequest(model="other", device_id="d1"))
        assert (await agent.expect("load_model")).load_model.model == "other"
        scheduler.kill()
    scheduler.start()
    async with fleet_of(scheduler) as fleet:
        unload = fleet.UnloadModel(pb.UnloadModelRequest(model="other", device_id="d1"))
        assert (await refusal(unload))[:2] == ("FAILED_PRECONDITION", "DEVICE_AWAY")
        away = await devices(fleet)  # nobody is connected
        assert {d.state for d in away.values()} == {pb.DEVICE_STATE_LOST}
        assert away["d0"].drain_reason == "new fans"
        assert list(away["d1"].pinned_models) == ["other"]
        async with ScriptedAgent(scheduler.address, devices=("d0", "d1")) as agent:
            command = (await agent.expect("load_model")).load_model
            assert (command.device_id, command.model) == ("d1", "other")
            assert (await devices(fleet))["d0"].state == pb.DEVICE_STATE_DRAINED
        await fleet.UndrainDevice(pb.UndrainDeviceRequest(device_id="d0"))
        await fleet.UnpinModel(pb.UnpinModelRequest(model="other", device_id="d1"))
        scheduler.kill()
    scheduler.start()
    async with fleet_of(scheduler) as fleet:
        assert not await devices(fleet)


# Models.


async def test_a_model_is_loaded_by_order_once(scheduler: Process, fleet: Stub) -> None:
    order = pb.LoadModelRequest(model="other", device_id="d0")
    async with ScriptedAgent(scheduler.address) as agent:
        began = time.time()
        for _ in range(2):
            device = (await fleet.LoadModel(order)).device
            assert (device.loading_model, device.load_expected_seconds) == ("other", 2.0)
            assert began - 1 < device.load_start_time.ToNanoseconds() / 1e9 < time.time() + 1
        assert (await agent.expect("load_model")).load_model.model == "other"
        agent.say(model_changed=loaded("other"))
        device = await until(fleet, lambda device: not device.loading_model)
        assert list(device.resident_models) == ["other", "toy"]
        assert (await fleet.LoadModel(order)).device == device
        await agent.quiet()


async def test_where_no_device_is_named_the_scheduler_chooses(
    scheduler: Process, fleet: Stub
) -> None:
    async with ScriptedAgent(scheduler.address, devices=("d0", "d1"), capacity=150) as agent:
        await submit(scheduler)
        busy = (await agent.expect("run")).run.attempt.device_id
        order = pb.LoadModelRequest(model="other")
        device = (await fleet.LoadModel(order)).device
        assert device.id != busy and device.loading_model == "other"
        assert (await fleet.LoadModel(order)).device.id == device.id
        assert (await fleet.LoadModel(pb.LoadModelRequest(model="toy"))).device.id in ("d0", "d1")


async def test_an_idle_model_is_unloaded_one_in_use_is_not(scheduler: Process, fleet: Stub) -> None:
    order = pb.UnloadModelRequest(model="toy", device_id="d0")
    async with ScriptedAgent(scheduler.address) as agent:
        await submit(scheduler)
        attempt = (await agent.expect("run")).run.attempt
        code, reason, message = await refusal(fleet.UnloadModel(order))
        assert (code, reason) == ("FAILED_PRECONDITION", "MODEL_IN_USE")
        assert "drain it first" in message
        agent.succeed(attempt)
        await agent.expect("settled")
        device = (await fleet.UnloadModel(order)).device
        assert (list(device.resident_models), device.unloading_model) == ([], "toy")
        assert (await agent.expect("unload_model")).unload_model.model == "toy"


async def test_a_pinned_model_stays_until_it_is_unpinned(scheduler: Process, fleet: Stub) -> None:
    unload = pb.UnloadModelRequest(model="toy", device_id="d0")
    async with ScriptedAgent(scheduler.address, capacity=150) as agent:
        answer = await fleet.PinModel(pb.PinModelRequest(model="toy", device_id="d0"))
        assert list(answer.device.pinned_models) == ["toy"]
        assert (await refusal(fleet.UnloadModel(unload)))[:2] == (
            "FAILED_PRECONDITION", "MODEL_PINNED",
        )  # fmt: skip
        await submit(scheduler, model="other")  # its place is taken for good
        await agent.quiet()
        await fleet.UnpinModel(pb.UnpinModelRequest(model="toy", device_id="d0"))
        await agent.expect("unload_model")
        assert (await agent.expect("load_model")).load_model.model == "other"


async def test_what_does_not_fit_is_refused_with_the_bytes(scheduler: Process, fleet: Stub) -> None:
    async with ScriptedAgent(scheduler.address, capacity=150):
        await fleet.PinModel(pb.PinModelRequest(model="toy", device_id="d0"))
        for order in (
            fleet.LoadModel(pb.LoadModelRequest(model="other", device_id="d0")),
            fleet.PinModel(pb.PinModelRequest(model="other", device_id="d0")),
        ):
            code, reason, message = await refusal(order)
            assert (code, reason) == ("FAILED_PRECONDITION", "NO_ROOM")
            assert "142" in message  # bytes: 95 % of 150
        assert list((await devices(fleet))["d0"].pinned_models) == ["toy"]
        code, reason, _ = await refusal(fleet.LoadModel(pb.LoadModelRequest(model="other")))
        assert (code, reason) == ("FAILED_PRECONDITION", "NO_ROOM")


async def test_a_device_that_loads_says_when_to_come_again(scheduler: Process, fleet: Stub) -> None:
    async with ScriptedAgent(scheduler.address):
        await fleet.LoadModel(pb.LoadModelRequest(model="other", device_id="d0"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await fleet.LoadModel(pb.LoadModelRequest(model="toy-two", device_id="d0"))
        error = from_rpc_error(refused.value)
        assert error and (error.code, error.reason) == ("FAILED_PRECONDITION", "DEVICE_BUSY")
        assert error.retry_after_seconds and 0 < error.retry_after_seconds <= 2.0


# What is wrong with a request.


async def test_unknown_names_are_told_what_is_near(scheduler: Process, fleet: Stub) -> None:
    async with ScriptedAgent(scheduler.address):
        drain = fleet.DrainDevice(pb.DrainDeviceRequest(device_id="d7"))
        assert await refusal(drain) == (
            "NOT_FOUND", "NO_DEVICE", "there is no device d7; do you mean d0?",
        )  # fmt: skip
        load = fleet.LoadModel(pb.LoadModelRequest(model="toy-tow", device_id="d0"))
        code, reason, message = await refusal(load)
        assert (code, reason) == ("NOT_FOUND", "NO_MODEL")
        assert "do you mean toy-two" in message
        unpin = fleet.UnpinModel(pb.UnpinModelRequest(model="zzz", device_id="d0"))
        assert "there are: other, toy, toy-two" in (await refusal(unpin))[2]


async def test_every_field_at_fault_is_named(fleet: Stub) -> None:
    calls = {
        fleet.PinModel(pb.PinModelRequest()): ["model", "device_id"],
        fleet.UnloadModel(pb.UnloadModelRequest(model="a\0", device_id="d0")): ["model"],
        fleet.DrainDevice(pb.DrainDeviceRequest(reason="x" * 201)): ["device_id", "reason"],
        fleet.DrainDevice(pb.DrainDeviceRequest(device_id="d0", reason="\x1b[2J")): ["reason"],
        fleet.GetTrace(pb.GetTraceRequest(limit=1_001)): ["limit"],
        fleet.WatchFleet(pb.WatchFleetRequest(interval_seconds=0, past_decisions=-1)).read(): [
            "interval_seconds", "past_decisions",
        ],
    }  # fmt: skip
    for call, fields in calls.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        error = from_rpc_error(refused.value)
        assert error and error.code == "INVALID_ARGUMENT"
        assert [violation.field for violation in error.violations] == fields


async def test_who_waits_for_a_drain_hears_that_it_was_taken_back(
    scheduler: Process, fleet: Stub
) -> None:
    async with ScriptedAgent(scheduler.address) as agent:
        await submit(scheduler)
        await agent.expect("run")
        waiting = asyncio.create_task(
            fleet_commands.drain(
                Gateway(scheduler.address), "d0", "", Console(quiet=True), wait=True
            )
        )
        await until(fleet, lambda device: bool(device.drain_reason))
        await fleet.UndrainDevice(pb.UndrainDeviceRequest(device_id="d0"))
        with pytest.raises(ProblemError, match="d0 was undrained meanwhile"):
            async with asyncio.timeout(10):
                await waiting
