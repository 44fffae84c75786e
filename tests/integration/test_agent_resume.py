"""Preempt and resume over a real Triton: the same bytes as without a pause, here and elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from atelier.v1 import agent_pb2 as pb
from tests.integration.test_agent import DictStore, Rig, TritonProcess, an_agent, reason
from tests.integration.toy_model import SLOW, write_repository

pytestmark = pytest.mark.real

IMAGE: dict[str, Any] = {"steps": 30, "guidance": SLOW, "count": 2}  # 50 ms a step
KEY = "checkpoints/local/gen"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    repository = tmp_path_factory.mktemp("resumed") / "toy"
    write_repository(repository)
    process = TritonProcess(tmp_path_factory.mktemp("its triton"), repository)
    process.repository = repository  # type: ignore[attr-defined]
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def rig(process: TritonProcess) -> AsyncIterator[Rig]:
    async with an_agent(process) as made:
        await ready(made)
        yield made


async def ready(rig: Rig) -> None:
    await rig.scheduler.hellos.get()
    await rig.scheduler.load()
    rig.scheduler.heard.clear()


async def preempt(rig: Rig, sampler: str) -> pb.AttemptPreempted:
    """Run `gen`, and take it off after a few steps."""
    rig.scheduler.heard.clear()
    rig.scheduler.run("gen", sampler=sampler, **IMAGE)
    await rig.scheduler.hear(pb.AttemptProgress, lambda p: p.step >= 5)
    attempt = pb.Attempt(generation_id="gen", lease_token=1, device_id="cpu-0")
    rig.scheduler.say(preempt=pb.PreemptAttempt(attempt=attempt, epoch=1))
    told: pb.AttemptPreempted = await rig.scheduler.hear(pb.AttemptPreempted)
    rig.scheduler.heard.clear()
    return told


async def hashes(rig: Rig, name: str, token: int, sampler: str) -> list[str]:
    rig.scheduler.run(name, token=token, sampler=sampler, **IMAGE)
    ended = await rig.scheduler.ended(name)
    assert isinstance(ended, pb.AttemptSucceeded), reason(ended)
    return [result.sha256 for result in ended.results]


def first_step(rig: Rig) -> int:
    """The first that was told of since the last clearing."""
    return min(m.step for m in rig.scheduler.heard if isinstance(m, pb.AttemptProgress) and m.step)


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
async def test_the_same_bytes_on_the_same_device(rig: Rig, sampler: str) -> None:
    expected = await hashes(rig, "whole", 1, sampler)
    told = await preempt(rig, sampler)
    assert 5 <= told.step < 30
    assert await hashes(rig, "gen", 2, sampler) == expected
    assert first_step(rig) > told.step


async def test_the_same_bytes_in_another_agent(rig: Rig, process: TritonProcess) -> None:
    expected = await hashes(rig, "whole", 1, "ddim")
    told = await preempt(rig, "ddim")
    store: DictStore = rig.store
    assert KEY in store.objects
    async with an_agent(process, store) as other:
        await ready(other)
        assert await hashes(other, "gen", 2, "ddim") == expected
        assert first_step(other) > told.step


async def test_a_checkpoint_that_was_damaged_costs_steps_only(
    rig: Rig, process: TritonProcess
) -> None:
    expected = await hashes(rig, "whole", 1, "ddim")
    await preempt(rig, "ddim")
    rig.store.objects[KEY] = rig.store.objects[KEY][:-100]
    async with an_agent(process, rig.store) as other:
        await ready(other)
        assert await hashes(other, "gen", 2, "ddim") == expected
        assert first_step(other) <= 2


async def test_an_agent_that_dies_costs_what_came_after_its_last_upload(
    rig: Rig, process: TritonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await hashes(rig, "whole", 1, "ddim")
    monkeypatch.setattr("agent.attempt.UPLOAD_SECONDS", 0.2)  # of steps of 50 ms
    async with an_agent(process, rig.store) as dies:
        await ready(dies)
        dies.scheduler.run("gen", **IMAGE)
        await dies.scheduler.hear(pb.AttemptProgress, lambda p: p.step >= 15)
    async with an_agent(process, rig.store) as other:
        await ready(other)
        assert await hashes(other, "gen", 2, "ddim") == expected
        assert first_step(other) > 4
