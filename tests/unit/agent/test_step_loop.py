"""Continuous batching, step by step: who is in a batch, who leaves when, and what it yields."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from agent import sampler
from agent.denoising import Denoising
from agent.sampler import noise, plan
from agent.step_loop import StepLoop
from agent.work import AttemptCancelledError, AttemptPreemptedError
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError
from tests.support.cards import profile, toy_card
from tests.unit.agent.fakes import FakeTriton, InPlaceTriton, Ticks, unavailable

CARD = toy_card(profiles=profile(activation_bytes=10, batch_cap=16))


def work(
    seed: int = 0,
    *,
    steps: int = 4,
    rows: int = 1,
    sampler: str = "ddim",
    guidance: float = 1.5,
    card: ModelCard = CARD,
    shape: str = "64x64",
    on_step: Callable[[int, float], None] = lambda _step, _seconds: None,
) -> Denoising:
    size = (4, *(int(side) // 4 for side in shape.split("x")))
    latents = np.stack([noise(seed + i, 0, size) for i in range(rows)])
    return Denoising(
        card=card,
        shape=shape,
        plan=plan(card.schedule, sampler, steps),
        guidance=guidance,
        text_embeddings=np.full((2, 32, 64), seed / 10, dtype=np.float32),
        latents=latents,
        denoised_prev=np.zeros_like(latents),
        seeds=tuple(range(seed, seed + rows)),
        on_step=on_step,
    )


@asynccontextmanager
async def running(triton: FakeTriton) -> AsyncIterator[StepLoop]:
    loop = StepLoop(triton, Ticks())
    task = asyncio.create_task(loop.run())
    yield loop
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def alone(of: Denoising) -> Any:
    async with running(FakeTriton()) as loop:
        await loop.denoise(of)
    return of.latents


async def test_members_share_batches_and_get_what_they_would_get_alone() -> None:
    def members() -> list[Denoising]:
        return [
            work(1, steps=3),
            work(2, steps=5, sampler="euler", guidance=7.0),
            work(3, steps=3, rows=2),
            work(9, steps=3, sampler="euler_ancestral"),
        ]

    triton = FakeTriton()
    together = members()
    async with running(triton) as loop:
        await asyncio.gather(*(loop.denoise(member) for member in together))
    assert triton.batches == [("toy", 5)] * 3 + [("toy", 1)] * 2
    for batched, single in zip(together, members(), strict=True):
        np.testing.assert_array_equal(batched.latents, await alone(single))


async def test_pictures_that_memory_was_not_granted_for_go_one_after_another() -> None:
    triton, member = FakeTriton(), work(3, steps=2, rows=3)
    member.granted = 2
    async with running(triton) as loop:
        await loop.denoise(member)
    assert [rows for _, rows in triton.batches] == [2, 1, 2, 1]
    np.testing.assert_array_equal(member.latents, await alone(work(3, steps=2, rows=3)))


async def test_a_newcomer_joins_at_the_next_step_and_the_finished_leave_at_once() -> None:
    triton, finished = FakeTriton(), []
    async with running(triton) as loop:
        tasks: list[asyncio.Task[None]] = []

        async def live(name: str, of: Denoising) -> None:
            await loop.denoise(of)
            finished.append(name)

        def at_step(step: int, _seconds: float) -> None:
            if step == 2:
                tasks.append(asyncio.create_task(live("late", work(2, steps=2))))

        tasks.append(asyncio.create_task(live("early", work(1, steps=6, on_step=at_step))))
        await tasks[0]
        await asyncio.gather(*tasks)
    rows = [count for _, count in triton.batches]
    assert rows[:2] == [1, 1]
    assert rows.count(2) == 2
    assert len(rows) == 6
    assert finished == ["late", "early"]


async def test_progress_is_told_at_every_step() -> None:
    told: list[tuple[int, float]] = []
    async with running(FakeTriton()) as loop:
        await loop.denoise(work(steps=3, on_step=lambda *step: told.append(step)))
    assert told == [(1, 1.0), (2, 1.0), (3, 1.0)]


async def test_cancel_is_heard_within_one_step() -> None:
    triton = FakeTriton()
    stays = work(2, steps=6)

    def at_step(step: int, _seconds: float) -> None:
        if step == 2:
            goes.cancel()

    goes = work(1, steps=6, on_step=at_step)
    async with running(triton) as loop:
        gone, stayed = await asyncio.gather(
            loop.denoise(goes), loop.denoise(stays), return_exceptions=True
        )
    assert isinstance(gone, AttemptCancelledError)
    assert stayed is None
    assert [rows for _, rows in triton.batches] == [2, 2, 1, 1, 1, 1]
    np.testing.assert_array_equal(stays.latents, await alone(work(2, steps=6)))


async def test_cancel_during_a_step_discards_that_step() -> None:
    triton = FakeTriton()
    goes = work(1, steps=3)
    triton.before_step = goes.cancel
    async with running(triton) as loop:
        with pytest.raises(AttemptCancelledError):
            await loop.denoise(goes)
    assert (goes.step, len(triton.batches)) == (0, 1)


async def test_preempt_is_heard_within_one_step_which_counts() -> None:
    triton = FakeTriton()
    goes, stays = work(1, steps=6), work(2, steps=6)
    triton.before_step = lambda: goes.preempt() if len(triton.batches) == 2 else None
    async with running(triton) as loop:
        gone, stayed = await asyncio.gather(
            loop.denoise(goes), loop.denoise(stays), return_exceptions=True
        )
    assert isinstance(gone, AttemptPreemptedError)
    assert stayed is None
    assert goes.step == 3
    assert [rows for _, rows in triton.batches] == [2, 2, 2, 1, 1, 1]
    goes.preempted = False
    np.testing.assert_array_equal(await alone(goes), await alone(work(1, steps=6)))


async def test_who_is_preempted_in_its_last_step_is_done() -> None:
    triton = FakeTriton()
    goes = work(1, steps=1)
    triton.before_step = goes.preempt
    async with running(triton) as loop:
        await loop.denoise(goes)
    assert goes.step == 1


async def test_a_caller_that_is_cancelled_leaves_the_batch() -> None:
    triton = FakeTriton()
    async with running(triton) as loop:
        goes = asyncio.create_task(loop.denoise(work(1, steps=1000)))
        await asyncio.sleep(0)
        goes.cancel()
        with pytest.raises(asyncio.CancelledError):
            await goes
        await loop.denoise(work(2, steps=2))
    assert triton.batches[-1] == ("toy", 1)


async def test_rows_are_split_at_the_cap_of_the_profile() -> None:
    card = toy_card(profiles=profile(activation_bytes=10, batch_cap=4))
    triton = FakeTriton()
    wide, narrow = work(1, rows=6, steps=2, card=card), work(9, rows=3, steps=2, card=card)
    async with running(triton) as loop:
        await asyncio.gather(loop.denoise(wide), loop.denoise(narrow))
    assert [rows for _, rows in triton.batches] == [4, 4, 1] * 2
    np.testing.assert_array_equal(wide.latents, await alone(work(1, rows=6, steps=2)))
    np.testing.assert_array_equal(narrow.latents, await alone(work(9, rows=3, steps=2)))


async def test_groups_take_turns() -> None:
    triton = FakeTriton()
    other = toy_card("other", profiles=CARD.profiles)
    async with running(triton) as loop:
        await asyncio.gather(
            loop.denoise(work(1, steps=3)),
            loop.denoise(work(2, steps=3, card=other)),
            loop.denoise(work(3, steps=3, shape="128x64")),
        )
    assert [model for model, _ in triton.batches] == ["toy", "other", "toy"] * 3
    assert all(rows == 1 for _, rows in triton.batches)


async def test_a_call_that_fails_fails_only_those_who_had_rows_in_it() -> None:
    card = toy_card(profiles=profile(activation_bytes=10, batch_cap=2))
    other = toy_card("other", profiles=CARD.profiles)
    triton = FakeTriton()
    triton.fail = lambda verb, what: (
        unavailable()
        if verb == "step" and what[0].name == "toy" and 0.1 in what[2].text_embeddings.round(2)
        else None
    )
    async with running(triton) as loop:
        first, second, third, fourth = await asyncio.gather(
            loop.denoise(work(1, steps=3, card=card, rows=2)),  # fails, and fills a batch
            loop.denoise(work(2, steps=3, card=card)),
            loop.denoise(work(3, steps=3, card=card)),
            loop.denoise(work(1, steps=3, card=other)),
            return_exceptions=True,
        )
    assert isinstance(first, ExecutionError)
    assert first.retryable
    assert first.reason == "DEVICE_UNAVAILABLE"
    assert second is third is fourth is None


async def test_values_that_are_not_finite_end_their_own_generation_only() -> None:
    triton = FakeTriton()
    triton.poison = True
    healthy = work(2, steps=1)
    async with running(triton) as loop:
        sick, fine = await asyncio.gather(
            loop.denoise(work(1, steps=1)), loop.denoise(healthy), return_exceptions=True
        )
    assert isinstance(sick, ExecutionError)
    assert (sick.reason, sick.retryable) == ("INVALID_OUTPUT", False)
    assert fine is None


async def test_a_fault_of_ours_does_not_stop_the_loop() -> None:
    triton = FakeTriton()
    faults: list[Exception] = [TypeError("a bug")]
    triton.fail = lambda verb, _: faults.pop() if verb == "step" and faults else None
    async with running(triton) as loop:
        with pytest.raises(ExecutionError) as failed:
            await loop.denoise(work(1))
        assert failed.value.retryable
        assert "bug" not in failed.value.message
        await loop.denoise(work(2))


async def test_a_checkpoint_goes_on_where_it_was() -> None:
    """latents, denoised_prev and step are all there is: half here, half elsewhere, same bytes."""
    whole = await alone(work(5, steps=6))

    def at_step(step: int, _seconds: float) -> None:
        if step == 3:
            half.cancel()

    half = work(5, steps=6, on_step=at_step)
    with pytest.raises(AttemptCancelledError):
        await alone(half)
    rest = work(5, steps=6)
    rest.latents, rest.denoised_prev, rest.step = half.latents, half.denoised_prev, half.step
    np.testing.assert_array_equal(await alone(rest), whole)


async def test_batches_that_lie_in_the_same_place_have_each_their_own_text() -> None:
    """Text that lies there already is not written again; another batch's is."""
    triton = InPlaceTriton()
    capped = toy_card(profiles=profile(activation_bytes=10, batch_cap=2))
    cards = [capped] * 4 + [toy_card("other", profiles=CARD.profiles)] * 2
    members = [work(seed, steps=4, card=card) for seed, card in enumerate(cards)]
    async with running(triton) as loop:
        await asyncio.gather(*(loop.denoise(member) for member in members))
        last = work(6, steps=3, rows=2)
        await loop.denoise(last)
    triton.buffers.abandon()
    assert {rows for _, rows in triton.batches} == {2}
    for seed, member in enumerate(members):
        np.testing.assert_array_equal(member.latents, await alone(work(seed, steps=4)))
    np.testing.assert_array_equal(last.latents, await alone(work(6, steps=3, rows=2)))


async def test_fresh_noise_is_drawn_while_its_step_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = threading.Event()

    def renewal(*args: Any) -> Any:
        drawn.set()
        return sampler.renewal(*args)

    monkeypatch.setattr("agent.step_loop.renewal", renewal)
    triton = FakeTriton()
    heard: list[bool] = []
    triton.before_step = lambda: heard.append(drawn.wait(10))  # the step ends after that
    async with running(triton) as loop:
        await loop.denoise(work(1, steps=2, sampler="euler_ancestral"))
    assert heard == [True, True]


async def test_noise_that_cannot_be_drawn_fails_its_own_generation_only() -> None:
    broken = work(1, steps=3, sampler="euler_ancestral")
    broken.seeds = (-1,)
    healthy = work(2, steps=3, sampler="euler_ancestral")
    async with running(FakeTriton()) as loop:
        failed, fine = await asyncio.gather(
            loop.denoise(broken), loop.denoise(healthy), return_exceptions=True
        )
    assert isinstance(failed, ExecutionError)
    assert failed.retryable
    assert broken.step == 0
    assert fine is None
    expected = await alone(work(2, steps=3, sampler="euler_ancestral"))
    np.testing.assert_array_equal(healthy.latents, expected)


async def test_a_suspect_shares_no_call() -> None:
    triton, suspect, others = FakeTriton(), work(1, steps=2), [work(2, steps=2), work(3, steps=2)]
    suspect.alone = True
    async with running(triton) as loop:
        await asyncio.gather(*(loop.denoise(member) for member in (suspect, *others)))
    assert sorted(rows for _, rows in triton.batches) == [1, 1, 2, 2]
    np.testing.assert_array_equal(suspect.latents, await alone(work(1, steps=2)))


@pytest.mark.parametrize(("rows", "reason"), [([2], "DEVICE_KILLED"), ([1, 1], "DEVICE_DIED")])
async def test_an_end_is_held_against_one_that_ran_alone(rows: list[int], reason: str) -> None:
    triton = FakeTriton()
    triton.fail = lambda _verb, _what: ExecutionError(
        "ended", retryable=True, reason="DEVICE_KILLED"
    )
    members = [work(i, rows=count) for i, count in enumerate(rows)]
    async with running(triton) as loop:
        ends = await asyncio.gather(
            *(loop.denoise(member) for member in members), return_exceptions=True
        )
    assert [getattr(end, "reason", None) for end in ends] == [reason] * len(rows)


async def test_of_a_step_of_several_calls_the_first_that_fails_says_why() -> None:
    triton = FakeTriton()
    reasons = iter(["DEVICE_KILLED", "DEVICE_UNAVAILABLE"])  # it is away for the second
    triton.fail = lambda _verb, _what: ExecutionError("x", retryable=True, reason=next(reasons))
    member = work(rows=4)
    member.granted = 2
    async with running(triton) as loop:
        with pytest.raises(ExecutionError) as failed:
            await loop.denoise(member)
    assert failed.value.reason == "DEVICE_KILLED"


async def test_a_call_that_runs_out_of_memory_is_halved_and_the_lesson_is_kept() -> None:
    triton, asked = FakeTriton(), []

    def no_room_for_more_than_three(verb: str, what: Any) -> Exception | None:
        if verb != "step":
            return None
        asked.append(len(what[2].latents))
        much = asked[-1] > 3
        return ExecutionError("no room", retryable=True, reason="OUT_OF_MEMORY") if much else None

    triton.fail = no_room_for_more_than_three
    members = [work(1, steps=3, rows=5), work(2, steps=3, rows=4), work(3, steps=3)]
    async with running(triton) as loop:
        await asyncio.gather(*(loop.denoise(member) for member in members))
        assert asked == [10, 5, 2, 2, 1, 2, 2, 1, *([2] * 5 * 2)]
    for member, single in zip(
        members, (work(1, steps=3, rows=5), work(2, steps=3, rows=4)), strict=False
    ):
        np.testing.assert_array_equal(member.latents, await alone(single))


async def test_a_row_that_does_not_fit_by_itself_fails() -> None:
    triton = FakeTriton()
    triton.fail = lambda verb, _what: (
        ExecutionError("no room", retryable=True, reason="OUT_OF_MEMORY")
        if verb == "step"
        else None
    )
    async with running(triton) as loop:
        with pytest.raises(ExecutionError, match="no room"):
            await loop.denoise(work(rows=4))
    assert triton.batches == []
