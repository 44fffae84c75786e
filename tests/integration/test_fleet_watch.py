"""WatchFleet: what a watcher is told, how little it costs, and what it does not hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from atelier.errors import ResourceExhaustedError, UnavailableError
from atelier.service import serving
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc
from gateway.fleet_servicer import FleetServicer
from gateway.scheduler_client import SchedulerClient
from scheduler import fleet_watch
from scheduler.decisions import Unload
from scheduler.recent import KEPT
from tests.support.agent import ScriptedAgent
from tests.support.generations import generation
from tests.support.house import House, house_over
from tests.support.ports import free_address
from tests.support.processes import Process, scheduler_process

Watch = AsyncIterator[pb.WatchFleetResponse]


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with house_over(dsn) as house:
        house.join()
        yield house


async def news(watch: Watch, kind: str) -> pb.WatchFleetResponse:
    """The next answer of a kind; others are passed over."""
    async with asyncio.timeout(20):
        async for answer in watch:
            if answer.WhichOneof("news") == kind:
                return answer
    raise AssertionError("the stream ended")


async def until(watch: Watch, holds: Callable[[pb.Device], bool]) -> pb.Device:
    """A device that is told as changed, once it is so."""
    while True:
        for device in (await news(watch, "change")).change.devices:
            if holds(device):
                return device


async def test_a_snapshot_then_decisions_then_the_devices_that_changed(house: House) -> None:
    async with aclosing(house.fleet_watch.follow(interval_seconds=0.2, past=0)) as watch:
        snapshot = (await anext(watch)).snapshot
        assert [device.id for device in snapshot.devices] == ["d0"]
        assert (snapshot.epoch, snapshot.last_sequence) == (1, 0)
        g = await house.intake.submit(generation())
        [run] = (await news(watch, "decisions")).decisions.decisions
        assert (run.sequence, run.generation_id, run.device_id) == (1, g.id, "d0")
        device = await until(watch, lambda device: bool(device.running))
        assert device.running[0].id == g.id
        await house.orders.drain("d0", "new fans")
        device = await until(watch, lambda device: device.state == pb.DEVICE_STATE_DRAINING)
        assert device.reason == "new fans"


async def test_what_stays_as_it_is_is_not_told_again(house: House) -> None:
    async with aclosing(house.fleet_watch.follow(interval_seconds=0.2, past=0)) as watch:
        await anext(watch)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                raise AssertionError(await anext(watch))


async def test_a_slow_reader_is_told_what_it_missed_and_nothing_is_kept_for_it(
    house: House,
) -> None:
    async with aclosing(house.fleet_watch.follow(interval_seconds=60, past=0)) as watch:
        await anext(watch)
        for n in range(KEPT + 500):  # nobody reads meanwhile, and nothing waits for it
            house.recent.note(Unload(f"m{n}", "d0"))
        assert (await anext(watch)).gap.missed_decisions == 500
        seen = []
        async with asyncio.timeout(10):
            while len(seen) < KEPT:
                told = (await anext(watch)).decisions.decisions
                assert len(told) <= fleet_watch.MOST_AT_ONCE
                seen += [decision.sequence for decision in told]
        assert seen == list(range(501, KEPT + 501))


async def test_a_reader_that_stops_at_its_socket_misses_and_hears_how_many(house: House) -> None:
    address = free_address()

    def register(server: grpc.aio.Server) -> None:
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(house.operators, server)

    async with serving(address, [], register), grpc.aio.insecure_channel(address) as channel:
        watch = fleet_pb2_grpc.FleetServiceStub(channel).WatchFleet(pb.WatchFleetRequest())
        await watch.read()
        made, heard, missed = 100_000, 0, 0
        for n in range(made):
            house.recent.note(Unload(f"m{n}", "d0", "a reason of some length " * 4))
            if n % 1_000 == 0:
                await asyncio.sleep(0.01)  # the server sends what the socket takes
        async with asyncio.timeout(20):
            while heard + missed < made:
                answer = await watch.read()
                heard += len(answer.decisions.decisions)
                missed += answer.gap.missed_decisions
        assert heard + missed == made and missed > 0
        watch.cancel()


async def test_many_decisions_come_in_few_messages(house: House) -> None:
    async with aclosing(house.fleet_watch.follow(interval_seconds=60, past=0)) as watch:
        await anext(watch)
        messages = seen = 0
        noting = asyncio.create_task(note_slowly(house, 200))
        while seen < 200:
            seen += len((await anext(watch)).decisions.decisions)
            messages += 1
        await noting
        assert messages < 100


async def note_slowly(house: House, count: int) -> None:
    for n in range(count):
        house.recent.note(Unload(f"m{n}", "d0"))
        await asyncio.sleep(0.001)


async def test_earlier_decisions_are_told_where_they_are_asked_for(house: House) -> None:
    for n in range(5):
        house.recent.note(Unload(f"m{n}", "d0"))
    async with aclosing(house.fleet_watch.follow(interval_seconds=60, past=3)) as watch:
        assert (await anext(watch)).snapshot.last_sequence == 5
        told = (await anext(watch)).decisions.decisions
        assert [decision.model for decision in told] == ["m2", "m3", "m4"]
        house.recent.note(Unload("m5", "d0"))
        [decision] = (await anext(watch)).decisions.decisions
        assert decision.sequence == 6


async def test_watchers_are_bounded_and_come_back_into_the_count(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_watch, "MOST_WATCHERS", 1)
    async with aclosing(house.fleet_watch.follow(interval_seconds=60, past=0)) as watch:
        await anext(watch)
        with pytest.raises(ResourceExhaustedError, match="1 watch"):
            await anext(house.fleet_watch.follow(interval_seconds=60, past=0))
    async with aclosing(house.fleet_watch.follow(interval_seconds=60, past=0)) as watch:
        await anext(watch)


async def test_a_scheduler_that_ends_sends_its_watchers_away(house: House) -> None:
    async with aclosing(house.fleet_watch.follow(interval_seconds=60, past=0)) as watch:
        await anext(watch)
        asyncio.get_running_loop().call_later(0.1, house.fleet_watch.end_all)
        with pytest.raises(UnavailableError):
            async with asyncio.timeout(5):
                await anext(watch)


# Through the gateway.


@pytest.fixture
def scheduler(dsn: str, tmp_path: Path) -> Iterator[Process]:
    with scheduler_process(dsn, tmp_path) as process:
        yield process


@asynccontextmanager
async def gateway(scheduler: Process) -> AsyncIterator[fleet_pb2_grpc.FleetServiceStub]:
    client = SchedulerClient(scheduler.address, 10.0)
    address = free_address()

    def register(server: grpc.aio.Server) -> None:
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(FleetServicer(client), server)

    async with serving(address, [], register), grpc.aio.insecure_channel(address) as channel:
        yield fleet_pb2_grpc.FleetServiceStub(channel)
    await client.close()


async def test_a_watch_outlives_the_scheduler(scheduler: Process) -> None:
    async with gateway(scheduler) as fleet:
        watch = fleet.WatchFleet(pb.WatchFleetRequest())
        first = (await news(watch, "snapshot")).snapshot
        scheduler.kill()
        await asyncio.to_thread(scheduler.start)
        second = (await news(watch, "snapshot")).snapshot
        assert second.epoch > first.epoch
        async with ScriptedAgent(scheduler.address):
            await until(watch, lambda device: device.state == pb.DEVICE_STATE_READY)
        watch.cancel()


async def test_the_gateway_hands_orders_and_refusals_on(scheduler: Process) -> None:
    async with gateway(scheduler) as fleet, ScriptedAgent(scheduler.address):
        await fleet.PinModel(pb.PinModelRequest(model="toy", device_id="d0"))
        await fleet.DrainDevice(pb.DrainDeviceRequest(device_id="d0"))
        [device] = (await fleet.ListDevices(pb.ListDevicesRequest())).devices
        assert device.state == pb.DEVICE_STATE_DRAINED and device.pinned_models == ["toy"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await fleet.UnloadModel(pb.UnloadModelRequest(model="toy", device_id="d0"))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "unpin it" in (refused.value.details() or "")
        await fleet.UnpinModel(pb.UnpinModelRequest(model="toy", device_id="d0"))
        await fleet.UndrainDevice(pb.UndrainDeviceRequest(device_id="d0"))
        loaded = await fleet.LoadModel(pb.LoadModelRequest(model="toy", device_id="d0"))
        assert loaded.device.state == pb.DEVICE_STATE_READY
        assert not (await fleet.ListQueues(pb.ListQueuesRequest())).queues
        assert "d0{" in (await fleet.GetTrace(pb.GetTraceRequest())).state_line
