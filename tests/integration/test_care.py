"""Devices in trouble, as a scripted agent tells of them; the loops and the database are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.rpc import status_pb2

from atelier.generation import Generation, State
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import fleet_pb2
from scheduler import health
from scheduler.device import Device
from tests.support.generations import generation
from tests.support.house import House, house_over

GIB = 1 << 30
BROKEN = status_pb2.Status(code=13, message="a step failed")
PARTS = ["toy__text_encoder", "toy__denoiser", "toy__vae_decoder"]


@pytest.fixture
async def house(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(health, "SILENT_SECONDS", 0.0)
    async with house_over(dsn) as house:
        yield house


def device(house: House) -> Device:
    return house.live.sched.devices["d0"]


def trouble(house: House, reason: str, kind: pb.DeviceTrouble.ValueType) -> None:
    """The scripted agent reports its device in trouble."""
    sample = pb.DeviceSample(
        device_id="d0", healthy=False, reason=reason, trouble=kind, resident_models=["toy"]
    )
    house.hear(device_report=pb.DeviceReport(samples=[sample]))


def lost(house: House) -> None:
    trouble(house, "it fell off the bus", pb.DEVICE_TROUBLE_LOST)


async def running(house: House) -> tuple[Generation, pb.Attempt]:
    g = await house.intake.submit(generation())
    return g, (await house.command("run")).run.attempt


async def probe(house: House, failure: status_pb2.Status | None = None) -> pb.ProbeDevice:
    """The next probe, answered."""
    house.care.tick()
    command = (await house.command("probe_device")).probe_device
    house.hear(device_probed=pb.DeviceProbed(device_id="d0", failure=failure))
    return command


async def test_the_work_of_a_lost_device_goes_to_others(house: House) -> None:
    house.join()
    g, attempt = await running(house)
    lost(house)
    assert device(house).quarantined == "it fell off the bus"
    assert (await house.command("cancel")).cancel.attempt == attempt  # its agent is still there
    row = await house.store.look(g.id)
    assert row
    assert row.state is State.QUEUED
    assert g.id in house.live.sched.queues
    assert await house.store.requeued_for(g.id, ("DEVICE_LOST",)) == 1
    # What the agent has to say of it does not count any more.
    house.hear(failed=pb.AttemptFailed(attempt=attempt, cancelled=True))
    assert not (await house.command("settled")).settled.accepted
    assert g.id in house.live.sched.queues


async def test_what_only_uploads_goes_on(house: House) -> None:
    house.join()
    g, attempt = await running(house)
    house.hear(device_released=pb.DeviceReleased(attempt=attempt))
    lost(house)
    await asyncio.sleep(0.1)
    assert house.live.holds(g.id, attempt.lease_token)


async def test_two_good_probes_bring_it_back(house: House) -> None:
    house.join()
    g, _ = await running(house)
    lost(house)
    await house.command("cancel")
    house.sample("toy")
    assert not device(house).usable  # it must prove itself
    assert (await probe(house)).model == "toy"  # it is there: nothing is loaded for it
    assert not device(house).usable
    await probe(house, BROKEN)
    await probe(house)
    assert not device(house).usable
    await probe(house)
    assert device(house).usable
    assert (await house.command("run")).run.attempt.generation_id == g.id


async def test_a_probe_takes_no_memory_that_is_not_free(house: House) -> None:
    house.join(capacity=90, resident=())  # the toy model takes 100
    lost(house)
    house.sample()
    assert (await probe(house)).model == ""


async def test_a_device_whose_probes_fail_is_recycled(house: House) -> None:
    house.join()
    lost(house)
    house.sample("toy")
    await probe(house, BROKEN)
    await probe(house, BROKEN)
    assert (await house.command("recycle_device")).recycle_device.reason == "a step failed"
    house.hear(device_recycled=pb.DeviceRecycled(device_id="d0"))
    assert not device(house).resident  # a new process has nothing loaded
    await probe(house)
    await probe(house)
    assert device(house).usable


async def test_trouble_outlives_the_agent_s_line(house: House) -> None:
    house.join()
    lost(house)
    house.fleet.leave(house.line)
    assert "not connected" in device(house).quarantined
    house.join()
    assert device(house).quarantined == "it fell off the bus"
    house.sample("toy")
    await probe(house)
    await probe(house)
    assert device(house).usable


async def test_a_device_given_up_is_forgotten(house: House) -> None:
    house.join()
    lost(house)
    house.fleet.leave(house.line)
    house.fleet.give_up("d0")
    house.join()
    assert device(house).usable


def changed(house: House, *, resident: bool, bytes_: int | None, **more: Any) -> None:
    house.hear(
        model_changed=pb.ModelChanged(
            device_id="d0", model="toy", resident=resident, measured_bytes=bytes_,
            triton_models=PARTS, **more,
        )
    )  # fmt: skip


def used(house: House, size: int) -> None:
    sample = pb.DeviceSample(
        device_id="d0", healthy=True, measured_bytes=size, total_bytes=24 * GIB,
        driver_answered=True,
    )  # fmt: skip
    house.hear(device_report=pb.DeviceReport(samples=[sample]))


async def test_memory_that_is_kept_drains_and_recycles(house: House) -> None:
    house.join(capacity=24 * GIB, resident=())
    changed(house, resident=True, bytes_=8 * GIB)
    changed(house, resident=False, bytes_=-5 * GIB)
    for _ in range(2):
        used(house, 4 * GIB)
        assert device(house).usable
    used(house, 4 * GIB)
    assert "not given back" in device(house).quarantined
    house.care.tick()
    await house.command("recycle_device")
    house.hear(device_recycled=pb.DeviceRecycled(device_id="d0"))
    used(house, 1 * GIB)
    await probe(house)
    await probe(house)
    assert device(house).usable
    for _ in range(4):
        used(house, 1 * GIB)
    assert device(house).usable


async def test_one_that_cannot_be_recycled_goes_on_with_what_is_left(house: House) -> None:
    house.join(capacity=24 * GIB, resident=())
    changed(house, resident=True, bytes_=8 * GIB)
    changed(house, resident=False, bytes_=-5 * GIB)
    for _ in range(3):
        used(house, 4 * GIB)
    house.care.tick()
    await house.command("recycle_device")
    why = status_pb2.Status(code=9, message="this device names no triton_pid_file")
    house.hear(device_recycled=pb.DeviceRecycled(device_id="d0", failure=why))
    assert "triton_pid_file" in device(house).quarantined
    await probe(house)
    await probe(house)
    for _ in range(4):
        used(house, 4 * GIB)
    assert device(house).usable


async def test_a_driver_that_says_nothing_accuses_nobody(house: House) -> None:
    house.join(capacity=24 * GIB, resident=())
    changed(house, resident=True, bytes_=8 * GIB)
    used(house, 9 * GIB)
    changed(house, resident=False, bytes_=None)  # it was slow, just then
    for _ in range(4):
        used(house, 4 * GIB)
    assert device(house).usable


async def test_memory_of_which_nothing_at_all_is_given_back_is_kept(house: House) -> None:
    house.join(capacity=24 * GIB, resident=())
    changed(house, resident=True, bytes_=8 * GIB)
    changed(house, resident=False, bytes_=0)
    for _ in range(3):
        used(house, 9 * GIB)
    assert "not given back" in device(house).quarantined


async def test_draining_lets_what_runs_end(house: House) -> None:
    house.join(capacity=24 * GIB)
    g, attempt = await running(house)
    house.fleet.healths["d0"].keeps_memory("3 bytes were not given back", 0.0)
    house.sample("toy")
    assert device(house).quarantined
    house.care.tick()
    assert house.live.holds(g.id, attempt.lease_token)
    assert house.line.outgoing.empty()
    house.hear(device_released=pb.DeviceReleased(attempt=attempt))
    house.care.tick()
    await house.command("recycle_device")


async def test_what_is_measured_replaces_what_was_declared(house: House) -> None:
    house.join(capacity=24 * GIB, resident=())
    before = house.live.sched.models["toy"]
    changed(house, resident=True, bytes_=GIB, seconds=9.0, from_host_memory=True)
    batch = pb.BatchMeasured(
        device_id="d0", model="toy", shape="64x64", rows=2, steps=10, step_seconds=0.05
    )
    house.hear(batch_measured=batch)
    after = house.live.sched.models["toy"]
    assert after.load == before.load
    assert after.load_host == 5.5
    assert after.shapes["64x64"].step(2) > before.shapes["64x64"].step(2)


async def test_a_node_s_memory_is_told_to_the_core(house: House) -> None:
    facts = pb.DeviceFacts(id="d0", capacity_bytes=1_000)
    hello = pb.Hello(node="n0", devices=[facts], host_memory_bytes=500, host_models=["toy"])
    house.line, _ = house.fleet.join(hello)
    tier = house.live.sched.books.hosts["n0"]
    assert (tier.capacity, list(tier.held)) == (500, ["toy"])
    tier.holds([])
    tier.warming = "toy"
    house.hear(device_report=pb.DeviceReport(host_models=[]))
    assert tier.warming == "toy"
    house.hear(device_report=pb.DeviceReport(host_models=["toy"], host_resident_bytes=99))
    assert (tier.warming, list(tier.held)) == ("", ["toy"])
    assert house.fleet.hosts["n0"].resident_bytes == 99


async def test_a_read_that_never_ends_is_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.fleet.WARM_SECONDS", 0.0)
    facts = pb.DeviceFacts(id="d0", capacity_bytes=1_000)
    hello = pb.Hello(node="n0", devices=[facts], host_memory_bytes=500)
    house.line, _ = house.fleet.join(hello)
    house.live.sched.books.hosts["n0"].warming = "toy"
    for _ in range(2):
        house.hear(device_report=pb.DeviceReport())
    assert house.live.sched.books.hosts["n0"].warming == ""


async def test_a_later_read_of_the_same_model_has_its_own_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(house.fleet, "_clock", lambda: now)
    joined_with_host(house, "toy")
    tier = house.live.sched.books.hosts["n0"]
    tier.holds([])
    tier.warming = "toy"
    house.hear(device_report=pb.DeviceReport())
    now = 5.0
    house.hear(device_report=pb.DeviceReport(host_models=["toy"]))
    now = 1_000.0
    tier.holds([])
    tier.warming = "toy"
    house.hear(device_report=pb.DeviceReport())
    assert house.live.sched.books.hosts["n0"].warming == "toy"


async def test_what_is_not_in_a_node_s_memory_is_not_counted_on_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.fleet.WARM_SECONDS", 0.0)
    joined_with_host(house)
    house.live.sched.books.hosts["n0"].holds(["toy"])  # admitted, but the agent has no room for it
    for _ in range(2):
        house.hear(device_report=pb.DeviceReport())
    assert not house.live.sched.books.hosts["n0"].held


async def test_a_node_that_is_given_up_holds_nothing(house: House) -> None:
    joined_with_host(house, "toy")
    house.fleet.give_up("d0")
    assert not house.live.sched.books.hosts
    assert not house.fleet.hosts


async def test_a_node_that_comes_back_without_memory_for_models_holds_nothing(house: House) -> None:
    joined_with_host(house, "toy")
    house.join()
    assert not house.live.sched.books.hosts


async def test_what_a_node_reports_to_hold_is_what_operators_see(house: House) -> None:
    joined_with_host(house)
    house.live.sched.books.hosts["n0"].holds(["toy"])  # as the core thinks
    answer = await house.operators.ListDevices(fleet_pb2.ListDevicesRequest(), None)
    assert list(answer.devices[0].host_memory_models) == []
    house.hear(device_report=pb.DeviceReport(host_models=["toy"]))
    answer = await house.operators.ListDevices(fleet_pb2.ListDevicesRequest(), None)
    assert list(answer.devices[0].host_memory_models) == ["toy"]


def joined_with_host(house: House, *held: str) -> None:
    """Node n0 with its d0, and memory for files of models."""
    facts = pb.DeviceFacts(id="d0", capacity_bytes=1_000)
    hello = pb.Hello(node="n0", devices=[facts], host_memory_bytes=500, host_models=held)
    house.line, _ = house.fleet.join(hello)
