"""Devices that lie, leak, freeze and fall off the bus: the whole stack over a fake driver."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest

from atelier.v1 import fleet_pb2, generation_pb2
from tests.support.fake_nvml.control import GPU_IS_LOST
from tests.support.gpu_stack import DECLARED, GIB, HOLDS, GpuStack, gpu_stack

pytestmark = pytest.mark.real

BASE = 300 << 20
SIZE = sum(HOLDS.values())
SHARED = HOLDS["text_encoder"]  # by both models
DONE = generation_pb2.GENERATION_STATE_SUCCEEDED


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GpuStack]:
    async with gpu_stack(tmp_path_factory.mktemp("gpus")) as running:
        yield running


async def started(stack: GpuStack, on: int) -> list[str]:
    """Generations, one of which makes its steps on that device."""
    await stack.load("red", on)
    made = [await stack.create(steps=60) for _ in range(4)]

    async def runs() -> bool:
        return any(r.step > 2 for r in (await stack.device(on)).running)

    await stack.until(runs)
    return made


async def all_succeed_elsewhere(stack: GpuStack, made: list[str], than: int) -> None:
    done = [await stack.ended(name) for name in made]
    assert [g.state for g in done] == [DONE] * len(made), done
    moved = [g for g in done if g.attempt > 1]
    assert moved, "nothing ran there any more when it failed"
    assert all(g.provenance.device != f"gpu-{than}" for g in moved)


async def test_what_a_load_takes_is_measured_and_counts(stack: GpuStack) -> None:
    before = await stack.device(0)
    assert before.measured_bytes == BASE
    await stack.load("red", 0)

    async def is_measured() -> bool:
        return (await stack.device(0)).measured_bytes == BASE + SIZE

    await stack.until(is_measured)
    after = await stack.device(0)
    assert after.measured_free_bytes == 24 * GIB - BASE - SIZE
    # Half of the difference is believed at once.
    assert after.reserved_bytes - before.reserved_bytes == DECLARED + (SIZE - DECLARED) // 2
    assert "model corrected" in stack.log("scheduler")


def right_bytes(device: fleet_pb2.Device) -> int:
    """What its GPU holds, by what is said to be there: the shared component once."""
    models = len(device.resident_models)
    return BASE + models * (SIZE - SHARED) + bool(models) * SHARED


async def test_what_models_share_is_there_once(stack: GpuStack) -> None:
    await stack.load("red", 0)
    await stack.load("blue", 0)

    async def holds() -> list[int]:
        device = await stack.device(0)
        return [len(device.resident_models), device.measured_bytes - BASE]

    async def both() -> bool:
        return await holds() == [2, 2 * SIZE - SHARED]

    async def one() -> bool:
        return await holds() == [1, SIZE]

    await stack.until(both)
    await stack.unload("red", 0)
    await stack.until(one)  # its text encoder stays, for the other
    assert (await stack.ended(await stack.create("blue", steps=3))).state == DONE


async def test_a_gpu_that_falls_off_the_bus(stack: GpuStack) -> None:
    made = await started(stack, on=0)
    stack.driver.gpus[0].error = GPU_IS_LOST

    async def is_out() -> bool:
        device = await stack.device(0)
        return device.state == fleet_pb2.DEVICE_STATE_QUARANTINED and "bus" in device.reason

    await stack.until(is_out)
    await all_succeed_elsewhere(stack, made, than=0)
    assert not await stack.is_ready(0)
    stack.driver.gpus[0].error = 0
    await stack.until(lambda: stack.is_ready(0))


@pytest.mark.slow
async def test_a_triton_that_freezes_is_started_anew(stack: GpuStack) -> None:
    made = await started(stack, on=1)
    restarts = stack.restarts("triton-1")
    stack.signal("triton-1", signal.SIGSTOP)
    await all_succeed_elsewhere(stack, made, than=1)

    async def is_back() -> bool:
        return stack.restarts("triton-1") > restarts and await stack.is_ready(1)

    await stack.until(is_back)
    await stack.load("red", 1)


async def test_memory_that_is_not_given_back_is_got_back(stack: GpuStack) -> None:
    await stack.load("blue", 0)
    restarts = stack.restarts("triton-0")
    stack.driver.gpus[0].leak = GIB  # of each part
    await stack.unload("blue", 0)

    async def is_out() -> bool:
        return "not given back" in (await stack.device(0)).reason

    await stack.until(is_out)
    stack.driver.gpus[0].leak = 0

    async def is_back() -> bool:
        return stack.restarts("triton-0") == restarts + 1 and await stack.is_ready(0)

    await stack.until(is_back)

    async def is_right() -> bool:  # the last report may be from a probe, which loads a model
        device = await stack.device(0)
        return device.measured_bytes == right_bytes(device)

    await stack.until(is_right)
    assert (await stack.ended(await stack.create(steps=3))).state == DONE


async def test_files_are_held_in_the_node_s_memory(stack: GpuStack) -> None:
    """Once a load was seen to be shorter from there, what is loaded is held there, and told."""
    for _ in range(3):
        await stack.load("blue", 1)
        await stack.unload("blue", 1)

        async def is_gone() -> bool:
            device = await stack.device(1)
            return "blue" not in device.resident_models and not device.unloading_model

        await stack.until(is_gone)

    async def is_held() -> bool:
        return bool((await stack.device(1)).host_memory_models)

    await stack.until(is_held)
