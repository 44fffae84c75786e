"""Preempt and resume through the agent's commands: what is told, and what goes on where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.checkpoint import Checkpoint, Checkpoints
from atelier.v1 import agent_pb2 as pb
from tests.unit.agent.conftest import Inside
from tests.unit.agent.fakes import unavailable

Make = Callable[..., pb.ConnectResponse]
ATTEMPT = pb.Attempt(generation_id="gen", lease_token=1, device_id="cpu-0")
PREEMPT = pb.ConnectResponse(preempt=pb.PreemptAttempt(attempt=ATTEMPT, epoch=1))


def again(make: Make, token: int = 2, **image: Any) -> pb.ConnectResponse:
    command = make("gen", token=token, **image)
    command.run.generation.attempt = token
    return command


async def uninterrupted(inside: Inside, make: Make, **image: Any) -> list[str]:
    inside.commands.obey(make("whole", **image))
    succeeded = await inside.until("succeeded")
    return [result.sha256 for result in succeeded.results]


async def preempted(inside: Inside, make: Make, at: int, **image: Any) -> pb.AttemptPreempted:
    """Run `gen` until it is preempted in its step number `at`."""
    before = len(inside.triton.batches)
    inside.triton.before_step = lambda: (
        inside.commands.obey(PREEMPT) if len(inside.triton.batches) == before + at - 1 else None
    )
    inside.commands.obey(make("gen", **image))
    told: pb.AttemptPreempted = await inside.until("preempted")
    inside.triton.before_step = lambda: None
    return told


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
async def test_it_goes_on_where_it_left_off_and_makes_the_same_file(
    inside: Inside, run_message: Make, sampler: str
) -> None:
    image: dict[str, Any] = {"steps": 8, "count": 2, "sampler": sampler}
    expected = await uninterrupted(inside, run_message, **image)
    told = await preempted(inside, run_message, 3, **image)
    assert (told.attempt.lease_token, told.step) == (1, 3)
    assert [a.released for a in inside.commands.attempts()] == [True, True]  # not settled yet
    before = len(inside.triton.batches)
    inside.commands.obey(again(run_message, **image))
    succeeded = await inside.until("succeeded")
    assert [result.sha256 for result in succeeded.results] == expected
    assert len(inside.triton.batches) - before == 5


async def test_it_goes_on_in_another_agent(inside: Inside, run_message: Make) -> None:
    expected = await uninterrupted(inside, run_message, steps=6)
    store = inside.store
    inside.device._checkpoints = Checkpoints(store)
    await preempted(inside, run_message, 2, steps=6)
    assert "checkpoints/local/gen" in store.objects
    inside.device._checkpoints.close()
    inside.device._checkpoints = Checkpoints(store)
    before = len(inside.triton.batches)
    inside.commands.obey(again(run_message, steps=6))
    succeeded = await inside.until("succeeded")
    assert [result.sha256 for result in succeeded.results] == expected
    assert len(inside.triton.batches) - before == 4
    inside.device._checkpoints._thread.shutdown()
    assert "checkpoints/local/gen" not in store.objects


async def test_a_device_that_fails_costs_one_step(inside: Inside, run_message: Make) -> None:
    expected = await uninterrupted(inside, run_message, steps=6)
    before = len(inside.triton.batches)
    inside.triton.fail = lambda verb, _: (
        unavailable() if verb == "step" and len(inside.triton.batches) == before + 4 else None
    )
    inside.commands.obey(run_message("gen", steps=6))
    assert (await inside.until("failed")).retryable
    inside.triton.fail = lambda _verb, _what: None
    inside.commands.obey(again(run_message, steps=6))
    succeeded = await inside.until("succeeded")
    assert [result.sha256 for result in succeeded.results] == expected
    assert len(inside.triton.batches) - before == 6


async def test_before_the_first_step_there_is_nothing_to_keep(
    inside: Inside, run_message: Make
) -> None:
    inside.commands.obey(run_message("gen"))
    inside.commands.obey(PREEMPT)
    told = await inside.until("preempted")
    assert told.step == 0
    assert inside.triton.batches == []


async def test_past_the_last_step_it_runs_to_its_end(inside: Inside, run_message: Make) -> None:
    inside.triton.fail = lambda verb, _: inside.commands.obey(PREEMPT) if verb == "decode" else None
    inside.commands.obey(run_message("gen"))
    await inside.until("succeeded")


async def test_what_never_came_is_as_good_as_preempted(inside: Inside) -> None:
    inside.commands.obey(PREEMPT)
    told = await inside.until("preempted")
    assert (told.attempt.generation_id, told.step) == ("gen", 0)


async def test_a_deposed_leader_preempts_nothing(inside: Inside, run_message: Make) -> None:
    inside.commands.obey(run_message("gen", epoch=2))
    inside.commands.obey(PREEMPT)
    await inside.until("succeeded")


async def test_long_ones_are_stored_on_the_way(
    inside: Inside, run_message: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.attempt.UPLOAD_SECONDS", 2.5)  # a step takes one, by this clock
    checkpoints = inside.device._checkpoints = Checkpoints(inside.store)
    stored: list[int] = []
    put = checkpoints._put

    def watched(key: str, checkpoint: Checkpoint) -> None:
        stored.append(checkpoint.step)
        put(key, checkpoint)

    monkeypatch.setattr(checkpoints, "_put", watched)
    inside.commands.obey(run_message("gen", steps=9))
    await inside.until("succeeded")
    checkpoints._thread.shutdown()
    assert stored[0] == 3
    assert all(step < 9 for step in stored)
    assert not any(key.startswith("checkpoints/") for key in inside.store.objects)
