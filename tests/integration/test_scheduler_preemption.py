"""Preemption by the live scheduler: the database follows, and whatever comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from atelier.generation import MAX_ATTEMPTS, Failure, Generation, Priority, State
from atelier.translate import failure_to, provenance_to, result_to
from atelier.v1 import agent_pb2 as pb
from scheduler.outcomes import PREEMPTED
from scheduler.trace import check_integrity
from tests.integration.test_scheduler_faults import once, state, until
from tests.support.generations import BY, RESULT, SPEC, generation
from tests.support.house import House, house_over

FULL = replace(SPEC, count=4, steps=100)  # as many rows as a batch may have


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with house_over(dsn) as house:
        house.join()
        yield house
        check_integrity(house.live.sched)


async def submit(house: House, priority: Priority, **changes: Any) -> Generation:
    return await house.intake.submit(generation(priority=priority, **changes))


async def started(house: House, g: Generation) -> pb.RunGeneration:
    command = (await house.command("run")).run
    assert command.attempt.generation_id == g.id
    return command


async def taken_off(house: House) -> tuple[Generation, pb.Attempt, Generation]:
    """One that runs and is preempted, its attempt, and the one that is more urgent."""
    batch = await submit(house, Priority.BATCH, spec=FULL)
    attempt = (await started(house, batch)).attempt
    urgent = await submit(house, Priority.INTERACTIVE)
    told = (await house.command("preempt")).preempt
    assert told.attempt == attempt
    return batch, attempt, urgent


def succeed(house: House, attempt: pb.Attempt) -> None:
    house.hear(
        succeeded=pb.AttemptSucceeded(
            attempt=attempt, results=[result_to(RESULT)], provenance=provenance_to(BY)
        )
    )


async def test_it_waits_for_the_more_urgent_and_goes_on(house: House) -> None:
    batch, attempt, urgent = await taken_off(house)
    leader = await started(house, urgent)
    assert await state(house, batch) is State.RUNNING  # until its agent says otherwise
    house.hear(preempted=pb.AttemptPreempted(attempt=attempt, step=60))
    settled = (await house.command("settled")).settled
    assert (settled.attempt, settled.accepted) == (attempt, True)
    assert await state(house, batch) is State.QUEUED
    assert await house.store.requeued_for(batch.id, (PREEMPTED,)) == 1
    ticket = house.live.sched.queues.get(batch.id)
    assert ticket
    assert (ticket.steps, ticket.steps_left) == (100, 40)
    succeed(house, leader.attempt)
    again = await started(house, batch)
    assert again.attempt.lease_token > attempt.lease_token
    assert again.generation.attempt == 2  # so its agent looks for where it left off
    succeed(house, again.attempt)
    await house.command("settled")
    assert await state(house, batch) is State.SUCCEEDED


async def test_one_that_was_about_to_end_ends(house: House) -> None:
    batch, attempt, urgent = await taken_off(house)
    leader = await started(house, urgent)
    succeed(house, attempt)
    await house.command("settled")
    assert await state(house, batch) is State.SUCCEEDED
    assert not house.live.preempting
    succeed(house, leader.attempt)
    await house.command("settled")
    assert house.live.queued == 0


async def test_a_cancel_meanwhile_counts(house: House) -> None:
    batch, attempt, _ = await taken_off(house)
    await house.stop(batch.id)
    house.hear(preempted=pb.AttemptPreempted(attempt=attempt, step=3))
    await until(lambda: batch.id not in house.live.running)
    assert await state(house, batch) is State.CANCELLED
    assert not house.live.preempting


async def test_an_agent_that_comes_back_is_told_again(house: House) -> None:
    batch, attempt, urgent = await taken_off(house)
    leader = await started(house, urgent)
    assert house.join([attempt, leader.attempt]) == []  # a new line: the command may be lost
    assert (await house.command("preempt")).preempt.attempt == attempt
    assert list(house.live.sched.devices["d0"].running) == [urgent.id]
    house.hear(preempted=pb.AttemptPreempted(attempt=attempt, step=3))
    await until(lambda: batch.id not in house.live.running)
    assert await state(house, batch) is State.QUEUED


async def test_an_agent_that_comes_back_without_it_has_lost_it(house: House) -> None:
    batch, _, urgent = await taken_off(house)
    leader = await started(house, urgent)
    house.join([leader.attempt])
    await until(lambda: batch.id not in house.live.running)
    assert await state(house, batch) is State.QUEUED


async def test_one_that_is_being_claimed_is_not_sent(house: House) -> None:
    claimed, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(real: Any, *arguments: Any) -> Any:
        row = await real(*arguments)
        claimed.set()
        await go_on.wait()
        return row

    once(house, "claim", slowly)
    batch = await submit(house, Priority.BATCH, spec=FULL)
    await claimed.wait()
    urgent = await submit(house, Priority.INTERACTIVE)
    leader = await started(house, urgent)
    assert batch.id in house.live.preempting
    go_on.set()
    await until(lambda: batch.id not in house.live.preempting)
    assert await state(house, batch) is State.QUEUED
    succeed(house, leader.attempt)
    assert (await started(house, batch)).generation.attempt == 2


async def test_told_twice_it_is_refused_the_second_time(house: House) -> None:
    _, attempt, _ = await taken_off(house)
    told = pb.AttemptPreempted(attempt=attempt, step=3)
    house.hear(preempted=told)
    assert (await house.command("settled")).settled.accepted
    house.hear(preempted=told)
    assert not (await house.command("settled")).settled.accepted


async def test_preemptions_use_no_attempts_up(house: House) -> None:
    batch = await submit(house, Priority.BATCH, spec=FULL)
    for _ in range(MAX_ATTEMPTS + 1):
        attempt = (await started(house, batch)).attempt
        urgent = await submit(house, Priority.INTERACTIVE)
        await house.command("preempt")
        leader = await started(house, urgent)
        house.hear(preempted=pb.AttemptPreempted(attempt=attempt, step=3))
        await house.command("settled")
        succeed(house, leader.attempt)
    attempt = (await started(house, batch)).attempt
    why = failure_to(Failure("INTERNAL", "EXECUTION_FAILED", "it broke"))
    house.hear(failed=pb.AttemptFailed(attempt=attempt, failure=why, retryable=True))
    await until(lambda: batch.id not in house.live.running)
    assert await state(house, batch) is State.QUEUED
