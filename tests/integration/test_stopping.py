"""A leader ends: SIGTERM is heard at any time, and no call of its clients fails by it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import suppress
from pathlib import Path

import grpc
import psycopg
import pytest

from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.rpc import _AGAIN, channel
from atelier.v1 import fleet_pb2
from atelier.v1 import scheduler_pb2 as pb
from tests.integration.test_failover import Stub, pair, stub, submit  # noqa: F401 fixtures
from tests.support.processes import Process, scheduler_process


async def test_it_is_heard_while_what_is_unfinished_is_taken_up(dsn: str, tmp_path: Path) -> None:
    migrate(dsn)
    scheduler = scheduler_process(dsn, tmp_path)
    try:
        with psycopg.connect(dsn) as connection:
            connection.execute("LOCK TABLE drained_devices")  # which it reads after it leads
            scheduler.launch()
            scheduler.until_told("leads")
            scheduler.signal(signal.SIGTERM)
            scheduler.until_told("stopping")
        assert scheduler.wait(10) == 0
        with psycopg.connect(dsn) as connection:
            [free] = connection.execute("SELECT expires_at <= now() FROM leader").fetchone() or ()
        assert free
    finally:
        scheduler.kill()


async def test_a_leader_with_watchers_and_submits_under_way_is_followed_at_once(
    pair: tuple[Process, Process],  # noqa: F811
    stub: Stub,  # noqa: F811
    dsn: str,
) -> None:
    leader, other = pair
    watched = await asyncio.gather(*(submit(stub) for _ in range(50)))
    acknowledged: list[str] = []
    stopped_at, followed_at = 0.0, 0.0

    async def watch(generation_id: str) -> grpc.StatusCode | None:
        request = pb.FollowGenerationRequest(tenant="local", id=generation_id)
        async with channel(leader.address) as line:
            try:
                async for _ in Stub(line).FollowGeneration(request):
                    pass
            except grpc.aio.AioRpcError as error:
                return error.code()
            return None

    async def go_on_submitting() -> None:
        while not (followed_at and time.monotonic() > followed_at + 0.5):
            acknowledged.append(await submit(stub))

    watchers = [asyncio.create_task(watch(generation_id)) for generation_id in watched]
    submits = [asyncio.create_task(go_on_submitting()) for _ in range(8)]
    await asyncio.sleep(1)
    assert acknowledged
    stopped_at = time.monotonic()
    leader.signal(signal.SIGTERM)
    await asyncio.to_thread(other.until_told, '"leads"')
    followed_at = time.monotonic()
    print(f"led again {followed_at - stopped_at:.1f} s after SIGTERM")
    assert await asyncio.to_thread(leader.wait, 10) == 0
    ended = time.monotonic() - stopped_at
    print(f"ended {ended:.1f} s after SIGTERM")
    async with asyncio.timeout(20):
        assert {*await asyncio.gather(*watchers)} == {grpc.StatusCode.UNAVAILABLE}
        await asyncio.gather(*submits)
    async with GenerationStore(dsn) as store:
        for generation_id in (*watched, *acknowledged):
            assert await store.look(generation_id), generation_id
    print(f"{len(acknowledged)} submits acknowledged, none lost")


@pytest.mark.slow
async def test_however_many_streams_break_no_submit_fails(
    pair: tuple[Process, Process],  # noqa: F811
    stub: Stub,  # noqa: F811
) -> None:
    leader, other = pair
    watched = await asyncio.gather(*(submit(stub) for _ in range(150)))
    followed = False

    async def watch(generation_id: str) -> None:
        request = pb.FollowGenerationRequest(tenant="local", id=generation_id)
        with suppress(grpc.aio.AioRpcError):
            async for _ in stub.FollowGeneration(request):
                pass

    async def go_on_submitting() -> None:
        while not followed:
            await submit(stub)

    watchers = [asyncio.create_task(watch(generation_id)) for generation_id in watched]
    submits = [asyncio.create_task(go_on_submitting()) for _ in range(20)]
    await asyncio.sleep(1)
    leader.signal(signal.SIGKILL)
    await asyncio.to_thread(other.until_told, '"leads"')
    followed = True
    async with asyncio.timeout(20):
        await asyncio.gather(*watchers, *submits)


def test_every_stream_is_left_out_of_what_grpc_makes_again() -> None:
    streams = {
        method.full_name
        for file, name in ((pb, "SchedulerService"), (fleet_pb2, "FleetService"))
        for method in file.DESCRIPTOR.services_by_name[name].methods
        if method.server_streaming
    }
    config = json.loads(json.dumps(_AGAIN))["methodConfig"]
    left_out = {
        f"{name['service']}.{name['method']}"
        for each in config
        if "retryPolicy" not in each
        for name in each["name"]
    }
    assert left_out == streams
