"""Steps through memory shared with a real Triton: the same bytes, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import mmap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from tritonclient.grpc import service_pb2 as pb

from agent.buffers import PREFIX, SHARED_MEMORY, Region, StepBuffers, StepRows
from agent.triton import Triton
from atelier.catalog import Catalog, ModelCard
from tests.integration.test_agent import KEY, TritonProcess
from tests.integration.toy_model import write_repository

pytestmark = pytest.mark.real

LATENTS, TEXT = (4, 16, 16), (2, 32, 64)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    repository = tmp_path_factory.mktemp("shared") / "toy"
    write_repository(repository)
    process = TritonProcess(tmp_path_factory.mktemp("its triton"), repository)
    process.repository = repository  # type: ignore[attr-defined]
    process.start()
    yield process
    process.kill()


@pytest.fixture
def card(process: TritonProcess) -> ModelCard:
    return Catalog.read(process.repository).cards["toy"]  # type: ignore[attr-defined]


Connect = Callable[..., Any]


@pytest.fixture
async def connect(process: TritonProcess, card: ModelCard) -> AsyncIterator[Connect]:
    """Makes clients; all are closed at the end."""
    made: list[Triton] = []
    before = set(SHARED_MEMORY.glob(f"{PREFIX}*"))

    async def make(buffers: StepBuffers | None = None) -> Triton:
        made.append(Triton(process.address, KEY, buffers))
        await made[-1].load(card, card.components.denoiser)
        return made[-1]

    yield make
    for client in made:
        await client.close()
    assert await registered(process) == []
    if names := set(SHARED_MEMORY.glob(f"{PREFIX}*")) - before:  # of a test beside us, maybe
        await asyncio.sleep(1)
        assert not names & set(SHARED_MEMORY.glob(f"{PREFIX}*"))


async def registered(process: TritonProcess) -> list[str]:
    """What Triton has mapped."""
    client = Triton(process.address, KEY)
    answer = await client._call("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(), 5)
    await client.close()
    return list(answer.regions)


def mapped() -> int:
    """How many regions this process has mapped."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count(f"{SHARED_MEMORY}/{PREFIX}")


def fill(rows: StepRows, seed: int) -> StepRows:
    """Any values, the same for the same seed."""
    rng = np.random.default_rng(seed)
    for array in rows.inputs.values():
        array[...] = rng.standard_normal(array.shape, dtype=np.float32)
    return rows


async def step(client: Triton, card: ModelCard, count: int, seed: int = 1) -> Any:
    rows = fill(client.rows(count, LATENTS, TEXT), seed)
    return [array.copy() for array in await client.step(card, "64x64", rows)]


async def test_the_same_bytes_come_back_as_through_grpc(
    connect: Connect, card: ModelCard, process: TritonProcess
) -> None:
    client = await connect()
    for count in (1, 8, 3):
        expected = await client.step(card, "64x64", fill(StepRows.empty(count, LATENTS, TEXT), 5))
        np.testing.assert_array_equal(await step(client, card, count, 5), expected)
    assert len(await registered(process)) == 1  # the one that was outgrown is gone
    assert mapped() == 1


async def test_a_triton_that_was_started_anew_is_told_again(
    connect: Connect, card: ModelCard, process: TritonProcess
) -> None:
    client = await connect()
    expected = await step(client, card, 2)
    process.kill()
    await asyncio.to_thread(process.start)
    await client.load(card, card.components.denoiser)
    np.testing.assert_array_equal(await step(client, card, 2), expected)  # through gRPC
    assert await registered(process) == []
    np.testing.assert_array_equal(await step(client, card, 2), expected)
    assert len(await registered(process)) == 1
    assert mapped() == 1


async def test_what_a_killed_agent_left_is_swept(
    connect: Connect, card: ModelCard, process: TritonProcess
) -> None:
    killed = await connect()
    await step(killed, card, 1)
    [left] = await registered(process)
    await step(await connect(), card, 1)
    [present] = await registered(process)
    assert present != left


class Elsewhere(Region):
    """A region of a host that Triton does not see."""

    @classmethod
    def create(cls, size: int) -> Region:
        return cls(f"{PREFIX}elsewhere", mmap.mmap(-1, size))


def full(_size: int) -> Region:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("create", [Elsewhere.create, full])
async def test_without_shared_memory_steps_go_through_grpc_and_that_is_told_once(
    connect: Connect, card: ModelCard, process: TritonProcess, create: Callable[[int], Region]
) -> None:
    expected = await step(await connect(), card, 2)
    client = await connect(StepBuffers(create))
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            np.testing.assert_array_equal(await step(client, card, 2), expected)
    told = [line for line in logs if "no memory is shared" in line["event"]]
    assert len(told) == 1


async def test_memory_of_a_call_without_an_answer_is_not_used_again(
    connect: Connect, card: ModelCard, process: TritonProcess
) -> None:
    client = await connect()
    await step(client, card, 1)
    [before] = await registered(process)
    rows = fill(client.rows(1, LATENTS, TEXT), 2)
    rows.guidance[...] = 9.75  # slow
    call = asyncio.create_task(client.step(card, "64x64", rows))
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    other = client.rows(1, LATENTS, TEXT)
    assert not np.shares_memory(other.latents, rows.latents)
    await step(client, card, 1)
    assert before in await registered(process)  # a model may be at work in it
    await step(await connect(), card, 1)  # another agent's first step sweeps both
