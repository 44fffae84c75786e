"""Callers that send too much, read too slowly, or go without a word: they are refused or waited for
in bounds, and nobody else notices."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from atelier.api_keys import SCOPES
from atelier.rpc import MAX_METADATA_BYTES
from atelier.v1 import (
    access_pb2,
    access_pb2_grpc,
    agent_pb2,
    generation_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
)
from atelier.v1 import generation_pb2 as pb
from benchmarks.door_stack import resident_bytes
from gateway.app import MAX_REQUEST_BYTES
from gateway.identity import Caller
from tests.faults.proxy import FaultProxy
from tests.fuzz.stack import Target, running
from tests.support.agent import ScriptedAgent
from tests.support.databases import another_database
from tests.support.door import door, refusal_of

Door = generation_pb2_grpc.GenerationServiceStub
PREVIEW = b"\xff\xd8" + bytes(60_000)  # as large as one may be, nearly
VIEWS, SLOW = 120, 20


@pytest.fixture(scope="module")
def target(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with running(another_database(postgres), tmp_path_factory.mktemp("floods")) as started:
        yield started


def shown(target: Target) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {target.key}")]


def drawn(prompt: str = "a ring") -> pb.CreateGenerationRequest:
    return pb.CreateGenerationRequest(model="toy", image=pb.ImageSpec(prompt=prompt, steps=100))


async def healthy(channel: grpc.aio.Channel) -> bool:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def last_of(watch: Any) -> tuple[int, int]:
    """The state that a watch ends with, and how many more views it had until then."""
    state, views = pb.GENERATION_STATE_UNSPECIFIED, 0
    while (view := await watch.read()) is not grpc.aio.EOF:
        state, views = view.generation.state, views + 1
    return state, views


async def test_what_is_too_large_is_refused_and_the_line_goes_on(target: Target) -> None:
    async with grpc.aio.insecure_channel(target.gateway.address) as channel:
        door = Door(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:  # past gRPC's usual 4 MiB
            await door.CreateGeneration(drawn("x" * 5_000_000), timeout=20, metadata=shown(target))
        told = refusal_of(rpc_status.from_call(refused.value))
        assert (told.code, [*told.fields]) == ("INVALID_ARGUMENT", ["image.prompt"])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await door.CreateGeneration(
                drawn("x" * (MAX_REQUEST_BYTES + 1)), timeout=20, metadata=shown(target)
            )
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for _ in range(10):  # between gRPC's two limits it is chance
            many = [*shown(target), ("x-baggage", "b" * 10_000)]
            await door.ListGenerations(pb.ListGenerationsRequest(), timeout=10, metadata=many)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            many = [*shown(target), ("x-baggage", "b" * MAX_METADATA_BYTES)]
            await door.ListGenerations(pb.ListGenerationsRequest(), timeout=10, metadata=many)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await healthy(channel)


async def test_lines_on_which_nobody_speaks_keep_nobody_out(target: Target) -> None:
    host, port = target.gateway.address.split(":")
    async with AsyncExitStack() as stack:
        for number in range(300):
            line = stack.enter_context(socket.create_connection((host, int(port))))
            line.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: number % 24])
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(
                target.gateway.address, [("grpc.use_local_subchannel_pool", 1)]
            )
        )
        assert await healthy(channel)


async def test_who_does_not_read_is_told_the_end_and_holds_nothing(target: Target) -> None:
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(ScriptedAgent(target.scheduler.address))
        fast = await stack.enter_async_context(grpc.aio.insecure_channel(target.gateway.address))
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        slow = await stack.enter_async_context(
            grpc.aio.insecure_channel(target.gateway.address, own)
        )
        made = await Door(fast).CreateGeneration(drawn(), timeout=10, metadata=shown(target))
        attempt = (await agent.expect("run")).run.attempt
        asked = pb.WatchGenerationRequest(id=made.generation.id)
        reader = Door(fast).WatchGeneration(asked, timeout=60, metadata=shown(target))
        sleepers = [
            Door(slow).WatchGeneration(asked, timeout=60, metadata=shown(target))
            for _ in range(SLOW)
        ]
        await reader.read()
        for sleeper in sleepers:
            await sleeper.read()
        before = resident_bytes(target.gateway.pid) + resident_bytes(target.scheduler.pid)
        for step in range(1, VIEWS + 1):
            agent.say(
                progress=agent_pb2.AttemptProgress(
                    attempt=attempt, phase=pb.PHASE_DENOISING, step=step, total_steps=VIEWS,
                    preview=PREVIEW,
                )
            )  # fmt: skip
            seen = 0
            while seen < step:  # it misses what comes too fast, and waits for nobody who sleeps
                seen = (await reader.read()).generation.progress.step
        held = resident_bytes(target.gateway.pid) + resident_bytes(target.scheduler.pid) - before
        agent.succeed(attempt)
        assert (await last_of(reader))[0] == pb.GENERATION_STATE_SUCCEEDED
        for sleeper in sleepers:
            state, views = await last_of(sleeper)
            assert state == pb.GENERATION_STATE_SUCCEEDED and views < VIEWS
    sent = VIEWS * len(PREVIEW) * SLOW
    assert held < sent / 4, f"{held:,} bytes held, of {sent:,}"


async def test_who_goes_without_a_word_is_forgotten(target: Target) -> None:
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(door(target.scheduler.address))
        made = await house.generations.CreateGeneration(drawn(), timeout=10)
        asked = pb.WatchGenerationRequest(id=made.generation.id)
        before = len(asyncio.all_tasks())
        proxy = await stack.enter_async_context(FaultProxy(int(house.address.split(":")[1])))
        caller = await stack.enter_async_context(grpc.aio.insecure_channel(proxy.address))
        watches = [Door(caller).WatchGeneration(asked, timeout=60) for _ in range(50)]
        for watch in watches:
            await watch.read()
        assert len(asyncio.all_tasks()) > before + 50
        proxy.reset()
        async with asyncio.timeout(10):  # what waited for news of it has ended, in the gateway too
            while len(asyncio.all_tasks()) > before + 10:  # noqa: ASYNC110 - of gRPC
                await asyncio.sleep(0.05)
        assert await healthy(house.channel)


async def key_of(channel: grpc.aio.Channel, target: Target, tenant: str) -> list[tuple[str, str]]:
    """What calls of a tenant show."""
    asked = access_pb2.CreateKeyRequest(tenant=tenant, scopes=["generate", "read"])
    stub = access_pb2_grpc.AccessServiceStub(channel)
    return [
        ("authorization", f"Bearer {(await stub.CreateKey(asked, metadata=shown(target))).text}")
    ]


async def test_a_flood_is_refused_to_who_sends_it_and_to_nobody_else(target: Target) -> None:
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target.gateway.address))
        door, ends = Door(channel), Counter[str]()
        noisy, quiet = [await key_of(channel, target, name) for name in ("noisy", "quiet")]
        await tenant_pb2_grpc.TenantServiceStub(channel).SetTenant(
            tenant_pb2.SetTenantRequest(
                name="noisy", plan=tenant_pb2.Plan(requests_per_second=1, requests_burst=5)
            ),
            metadata=shown(target),
        )

        async def flood() -> None:
            while True:
                try:
                    await door.CreateGeneration(drawn(), timeout=20, metadata=noisy)
                    ends["taken"] += 1
                except grpc.aio.AioRpcError as error:
                    told = refusal_of(rpc_status.from_call(error))
                    ends[told.reason if told.retry else "no word when to come again"] += 1

        async with asyncio.TaskGroup() as group:
            floods = [group.create_task(flood()) for _ in range(16)]
            for _ in range(30):
                made = await door.CreateGeneration(drawn(), timeout=20, metadata=quiet)
                asked = pb.GetGenerationRequest(id=made.generation.id)
                await door.GetGeneration(asked, timeout=20, metadata=quiet)
            for one in floods:
                one.cancel()
    assert {"taken", "QUOTA_EXCEEDED"} <= set(ends), ends
    assert set(ends) <= {"taken", "QUOTA_EXCEEDED", "REFUSED_TOO_OFTEN"}, ends
    assert ends["QUOTA_EXCEEDED"] > 4 * ends["taken"], ends


async def test_streams_of_a_tenant_are_bounded_and_of_no_other(target: Target) -> None:
    async def identify(method: str, context: grpc.aio.ServicerContext) -> Caller:
        sent = dict(context.invocation_metadata() or ())
        return Caller(str(sent["tenant"]), frozenset(SCOPES))

    async with door(target.scheduler.address, identify=identify, most_streams=3) as house:

        async def watched(tenant: str) -> Any:
            """A watch that has seen how things stand."""
            who = [("tenant", tenant)]
            made = await house.generations.CreateGeneration(drawn(), timeout=20, metadata=who)
            asked = pb.WatchGenerationRequest(id=made.generation.id)
            watch = house.generations.WatchGeneration(asked, timeout=20, metadata=who)
            assert await watch.read() is not grpc.aio.EOF
            return watch

        open_ = [await watched("many") for _ in range(3)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watched("many")
        told = refusal_of(rpc_status.from_call(refused.value))
        assert (told.code, told.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        assert told.quota.startswith("streams") and told.retry
        open_.append(await watched("another"))
        open_[0].cancel()
        async with asyncio.timeout(10):
            while True:  # the gateway hears of it in its own time
                try:
                    open_.append(await watched("many"))
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
        for one in open_:
            one.cancel()
