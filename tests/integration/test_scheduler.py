"""A real scheduler process over a real PostgreSQL, with scripted agents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from atelier.generation import Generation
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.translate import generation_to
from atelier.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    scheduler_pb2_grpc,
)
from atelier.v1 import scheduler_pb2 as pb
from tests.support.agent import ScriptedAgent
from tests.support.generations import generation
from tests.support.processes import Process, scheduler_process

Stub = scheduler_pb2_grpc.SchedulerServiceStub


@pytest.fixture
def scheduler(dsn: str, tmp_path: Path) -> Iterator[Process]:
    with scheduler_process(dsn, tmp_path, agent_grace_seconds=1.0, max_queued=20) as process:
        yield process


@pytest.fixture
async def stub(scheduler: Process) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(scheduler.address) as channel:
        yield Stub(channel)


async def submit(stub: Stub, g: Generation | None = None, hash_: bytes = b"h") -> str:
    message = generation_to(g or generation())
    request = pb.SubmitGenerationRequest(generation=message, request_hash=hash_)
    answer = await stub.SubmitGeneration(request, wait_for_ready=True)
    return answer.generation.id


async def read(stub: Stub, generation_id: str) -> generation_pb2.Generation:
    request = pb.ReadGenerationRequest(tenant="local", id=generation_id)
    answer: pb.ReadGenerationResponse = await stub.ReadGeneration(request, wait_for_ready=True)
    return answer.generation


async def ended(stub: Stub, generation_id: str) -> str:
    """The final state that a watcher sees."""
    request = pb.FollowGenerationRequest(tenant="local", id=generation_id)
    async with asyncio.timeout(20):
        async for answer in stub.FollowGeneration(request, wait_for_ready=True):
            last = answer.generation
    return generation_pb2.GenerationState.Name(last.state).removeprefix("GENERATION_STATE_")


async def until_step(stub: Stub, generation_id: str, step: int) -> None:
    request = pb.FollowGenerationRequest(tenant="local", id=generation_id)
    async for answer in stub.FollowGeneration(request):
        if answer.generation.progress.step == step:
            return


async def devices(scheduler: Process) -> list[fleet_pb2.Device]:
    async with grpc.aio.insecure_channel(scheduler.address) as channel:
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        answer = await fleet.ListDevices(fleet_pb2.ListDevicesRequest())
        return list(answer.devices)


async def run_of(agent: ScriptedAgent) -> agent_pb2.Attempt:
    return (await agent.expect("run")).run.attempt


async def test_from_submit_to_success(scheduler: Process, stub: Stub) -> None:
    made = await submit(stub)
    assert (await read(stub, made)).progress.phase == generation_pb2.PHASE_QUEUED
    async with ScriptedAgent(scheduler.address) as agent:
        watching = asyncio.create_task(ended(stub, made))
        attempt = await run_of(agent)
        assert attempt.generation_id == made and attempt.device_id == "d0"
        agent.say(
            progress=agent_pb2.AttemptProgress(
                attempt=attempt, phase=generation_pb2.PHASE_DENOISING, step=3, total_steps=4
            )
        )
        await until_step(stub, made, 3)
        agent.succeed(attempt)
        assert (await agent.expect("settled")).settled.accepted
        assert await watching == "SUCCEEDED"
    found = await read(stub, made)
    assert found.attempt == 1 and found.results[0].object_key == "results/k.png"


async def test_a_preview_stays_until_the_next_and_is_in_no_list(
    scheduler: Process, stub: Stub
) -> None:
    made = await submit(stub)
    async with ScriptedAgent(scheduler.address) as agent:
        attempt = await run_of(agent)

        async def told(step: int, preview: bytes) -> generation_pb2.Progress:
            agent.say(
                progress=agent_pb2.AttemptProgress(
                    attempt=attempt, step=step, total_steps=4, preview=preview
                )
            )
            await until_step(stub, made, step)
            return (await read(stub, made)).progress

        for step, preview, seen, of in (
            (1, b"one", b"one", 1),
            (2, b"", b"one", 1),
            (3, b"x" * (2**16 + 1), b"one", 1),  # more than a preview may be
            (4, b"four", b"four", 4),
        ):
            progress = await told(step, preview)
            assert (progress.preview, progress.preview_step) == (seen, of)
        follow = pb.FollowGenerationRequest(tenant="local", id=made)
        late = agent_pb2.AttemptProgress(attempt=attempt, step=3, total_steps=4, preview=b"three")
        agent.say(progress=late)
        async for answer in stub.FollowGeneration(follow):
            progress = answer.generation.progress
            if progress.preview == b"three":
                break
        assert (progress.step, progress.preview_step) == (4, 3)  # no step is taken back
        scan = pb.ScanGenerationsRequest(tenant="local", limit=10)
        listed = (await stub.ScanGenerations(scan)).generations
        assert [(g.progress.step, g.progress.preview) for g in listed] == [(4, b"")]


async def test_a_model_is_loaded_before_its_generation_runs(scheduler: Process, stub: Stub) -> None:
    await submit(stub)
    async with ScriptedAgent(scheduler.address, resident=()) as agent:
        load = (await agent.expect("load_model")).load_model
        assert (load.device_id, load.model) == ("d0", "toy")
        assert load.epoch == agent.welcome.epoch
        await agent.quiet()
        agent.say(model_changed=agent_pb2.ModelChanged(device_id="d0", model="toy", resident=True))
        await run_of(agent)


async def test_same_key_and_body_is_the_same_generation(stub: Stub) -> None:
    first = await submit(stub, generation(request_id="k"))
    assert await submit(stub, generation(request_id="k")) == first
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await submit(stub, generation(request_id="k", request_hash=b"other"), b"other")
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert first in (refused.value.details() or "")


async def test_a_full_queue_says_when_to_come_again(stub: Stub) -> None:
    await asyncio.gather(*(submit(stub) for _ in range(20)))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await submit(stub)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_what_was_accepted_is_acknowledged_though_the_queue_is_full_by_now(
    stub: Stub,
) -> None:
    """Its first answer may have been lost on the way."""
    keyed, unkeyed = generation(request_id="k"), generation()
    made = await asyncio.gather(submit(stub, keyed), submit(stub, unkeyed))
    await asyncio.gather(*(submit(stub) for _ in range(18)))
    assert await submit(stub, generation(request_id="k")) == made[0]
    assert await submit(stub, unkeyed) == made[1]  # as the gateway sends it again
    with pytest.raises(grpc.aio.AioRpcError) as other:
        await submit(stub, generation(request_id="k"), hash_=b"other")
    assert other.value.code() is grpc.StatusCode.ALREADY_EXISTS
    with pytest.raises(grpc.aio.AioRpcError) as new:
        await submit(stub, generation(request_id="l"))
    assert new.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_cancel_of_a_running_one_goes_to_its_agent(scheduler: Process, stub: Stub) -> None:
    made = await submit(stub)
    async with ScriptedAgent(scheduler.address) as agent:
        attempt = await run_of(agent)
        await stub.StopGeneration(pb.StopGenerationRequest(tenant="local", id=made))
        assert (await agent.expect("cancel")).cancel.attempt == attempt
        agent.fail(attempt, retryable=False, cancelled=True)
        assert (await agent.expect("settled")).settled.accepted
    assert await ended(stub, made) == "CANCELLED"


async def test_cancel_of_a_queued_one_ends_it(stub: Stub) -> None:
    made = await submit(stub)
    await stub.StopGeneration(pb.StopGenerationRequest(tenant="local", id=made))
    assert await ended(stub, made) == "CANCELLED"


async def test_a_failure_is_tried_again_or_told(scheduler: Process, stub: Stub) -> None:
    made = await submit(stub)
    async with ScriptedAgent(scheduler.address) as agent:
        agent.fail(await run_of(agent), retryable=True)
        await agent.expect("settled")
        second = await run_of(agent)
        assert second.generation_id == made
        agent.fail(second, retryable=False)
        await agent.expect("settled")
    assert await ended(stub, made) == "FAILED"
    assert (await read(stub, made)).failure.message == "as the script says"


async def test_a_deadline_that_passes_ends_it(stub: Stub) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    assert await ended(stub, await submit(stub, generation(deadline=soon))) == "EXPIRED"


async def test_an_agent_that_comes_back_keeps_its_attempts(scheduler: Process, stub: Stub) -> None:
    made = await submit(stub)
    async with ScriptedAgent(scheduler.address) as agent:
        attempt = await run_of(agent)
    async with ScriptedAgent(scheduler.address, attempts=[attempt]) as agent:
        assert not agent.welcome.revoked
        agent.succeed(attempt)
        assert (await agent.expect("settled")).settled.accepted
    assert (await read(stub, made)).attempt == 1


async def test_an_agent_that_comes_back_empty_gets_the_work_again(
    scheduler: Process, stub: Stub
) -> None:
    await submit(stub)
    async with ScriptedAgent(scheduler.address) as agent:
        first = await run_of(agent)
    async with ScriptedAgent(scheduler.address) as agent:
        second = await run_of(agent)
        assert second.generation_id == first.generation_id
        assert second.lease_token > first.lease_token


async def test_a_zombie_s_result_is_refused(scheduler: Process, stub: Stub) -> None:
    made = await submit(stub)
    async with ScriptedAgent(scheduler.address) as agent:
        old = await run_of(agent)
    await asyncio.sleep(2.5)  # its agent stays away for longer than the grace
    async with ScriptedAgent(scheduler.address, attempts=[old]) as agent:
        assert list(agent.welcome.revoked) == [old]
        new = await run_of(agent)
        agent.succeed(old)
        assert not (await agent.expect("settled")).settled.accepted
        scheduler.until_told("lost attempt's write refused")
        agent.succeed(new)
        assert (await agent.expect("settled")).settled.accepted
    assert (await read(stub, made)).attempt == 2


async def test_a_cancel_while_its_agent_is_away_reaches_it(scheduler: Process, stub: Stub) -> None:
    made = await submit(stub)
    async with ScriptedAgent(scheduler.address) as agent:
        attempt = await run_of(agent)
    await stub.StopGeneration(pb.StopGenerationRequest(tenant="local", id=made))
    async with ScriptedAgent(scheduler.address, attempts=[attempt]) as agent:
        assert (await agent.expect("cancel")).cancel.attempt == attempt
        agent.fail(attempt, retryable=False, cancelled=True)
        assert (await agent.expect("settled")).settled.accepted
    assert await ended(stub, made) == "CANCELLED"


async def test_a_node_that_comes_back_smaller_is_smaller(scheduler: Process, stub: Stub) -> None:
    old = ScriptedAgent(scheduler.address, devices=("d0", "d1"))
    async with old, ScriptedAgent(scheduler.address, devices=("d0",)) as agent:
        assert [device.id for device in await devices(scheduler)] == ["d0"]
        for _ in range(2):
            await submit(stub)
            attempt = await run_of(agent)
            assert attempt.device_id == "d0"
            agent.succeed(attempt)
            await agent.expect("settled")


async def test_a_device_belongs_to_the_node_that_named_it_last(
    scheduler: Process, stub: Stub
) -> None:
    old = ScriptedAgent(scheduler.address)
    async with ScriptedAgent(scheduler.address, node="n1") as first:
        async with old:
            pass
        await submit(stub)
        await first.quiet()  # old named it last, and left: nobody answers for it
    async with old, ScriptedAgent(scheduler.address, node="n2") as new:
        await old.__aexit__(None, None, None)
        attempt = await run_of(new)
        assert attempt.device_id == "d0"


@pytest.mark.parametrize(
    "first",
    [
        None,
        {"device_report": agent_pb2.DeviceReport()},
        {"hello": agent_pb2.Hello()},
        {"hello": agent_pb2.Hello(node="n", devices=[agent_pb2.DeviceFacts(id="a\0b")])},
        {"hello": agent_pb2.Hello(node="n", epoch=1_000)},
    ],
)
async def test_a_line_that_begins_wrong_is_refused(
    scheduler: Process, first: dict[str, object] | None
) -> None:
    async def requests() -> AsyncIterator[agent_pb2.ConnectRequest]:
        if first:
            yield agent_pb2.ConnectRequest(**first)  # type: ignore[arg-type]

    async with grpc.aio.insecure_channel(scheduler.address) as channel:
        call = agent_pb2_grpc.AgentServiceStub(channel).Connect(requests())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
    stale = bool(first and getattr(first.get("hello"), "epoch", 0))
    assert refused.value.code().name == ("UNAVAILABLE" if stale else "INVALID_ARGUMENT")


async def test_a_page_of_a_long_queue_holds_nobody_up(dsn: str, tmp_path: Path) -> None:
    migrate(dsn)
    async with GenerationStore(dsn) as store:
        await store.insert([generation() for _ in range(5_000)])
    with scheduler_process(dsn, tmp_path) as scheduler:
        async with grpc.aio.insecure_channel(scheduler.address) as channel:
            stub = Stub(channel)
            request = pb.ScanGenerationsRequest(tenant="local", limit=1001)
            started = time.monotonic()
            answer = await stub.ScanGenerations(request, wait_for_ready=True)
            assert time.monotonic() - started < 1.5  # with a position each: 5 s and more
            assert len(answer.generations) == 1001


async def test_a_killed_scheduler_takes_everything_up_again(scheduler: Process, stub: Stub) -> None:
    running, queued = await submit(stub), await submit(stub)
    async with ScriptedAgent(scheduler.address, capacity=120) as agent:
        attempt = await run_of(agent)
        assert attempt.generation_id == running
        scheduler.kill()
    scheduler.start()
    async with ScriptedAgent(scheduler.address, capacity=120, attempts=[attempt]) as agent:
        assert not agent.welcome.revoked
        agent.succeed(attempt)
        seen = [await agent.expect("settled"), await agent.expect("run")]
        assert seen[0].settled.accepted and seen[1].run.attempt.generation_id == queued
        agent.succeed(seen[1].run.attempt)
        await agent.expect("settled")
    assert [await ended(stub, g) for g in (running, queued)] == ["SUCCEEDED", "SUCCEEDED"]


async def test_the_fleet_is_shown(scheduler: Process, stub: Stub) -> None:
    await submit(stub)
    async with ScriptedAgent(scheduler.address) as agent:
        attempt = await run_of(agent)
        [device] = await devices(scheduler)
        assert device.id == "d0" and list(device.resident_models) == ["toy"]
        assert device.reserved_bytes == 110
        assert [one.id for one in device.running] == [attempt.generation_id]
