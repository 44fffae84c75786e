"""The loop under random arrivals, cancels, preemptions and failing calls, on two devices.

Whatever happens, no row is lost, mixed up with another's, or advanced twice: who comes through has
the latents that it would have alone, bit for bit, and every step of it was told once, in order.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.checkpoint import Checkpoint, pack, unpack
from agent.denoising import Denoising
from agent.sampler import noise, plan
from agent.step_loop import StepLoop
from agent.work import AttemptCancelledError, AttemptPreemptedError
from atelier.errors import ExecutionError
from tests.support.cards import profile, toy_card
from tests.unit.agent.fakes import FakeTriton, Ticks, unavailable

CARD = toy_card(profiles=profile(activation_bytes=10, batch_cap=4))
SHAPES = ("64x64", "128x64")


@dataclass
class Life:
    """One generation, by script, and what was seen of it."""

    seed: int
    steps: int
    rows: int
    sampler: str
    shape: str
    arrives: int  # in turns of the event loop
    work: Denoising | None = None
    told: list[int] = field(default_factory=list)
    ended: str = ""

    def begin(self) -> Denoising:
        size = (4, *(int(side) // 4 for side in self.shape.split("x")))
        latents = np.stack([noise(self.seed * 10 + i, 0, size) for i in range(self.rows)])
        return Denoising(
            card=CARD,
            shape=self.shape,
            plan=plan(CARD.schedule, self.sampler, self.steps),
            guidance=1.0 + self.seed / 10,
            text_embeddings=np.full((2, 32, 64), self.seed / 10, dtype=np.float32),
            latents=latents,
            denoised_prev=np.zeros_like(latents),
            seeds=tuple(self.seed * 10 + i for i in range(self.rows)),
            on_step=lambda step, _seconds: self.told.append(step),
        )

    def go_on(self) -> Denoising:
        """From where it left off, as another agent would read it."""
        assert self.work
        left = self.work
        read = unpack(pack(Checkpoint("", left.step, left.latents, left.denoised_prev)))
        work = self.begin()
        work.latents, work.denoised_prev, work.step = read.latents, read.denoised_prev, read.step
        return work

    async def live(self, loops: list[StepLoop]) -> None:
        for _ in range(self.arrives):
            await asyncio.sleep(0)
        for attempt in range(1000):
            self.work = self.go_on() if self.work else self.begin()
            try:
                await loops[(self.seed + attempt) % len(loops)].denoise(self.work)
                self.ended = "done"
                return
            except AttemptCancelledError:
                self.ended = "cancelled"
                return
            except (AttemptPreemptedError, ExecutionError):
                continue
        raise AssertionError("it comes to no end")


lives = st.builds(
    Life,
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 7),
    rows=st.integers(1, 6),
    sampler=st.sampled_from(["ddim", "euler", "euler_ancestral", "dpmpp_2m"]),
    shape=st.sampled_from(SHAPES),
    arrives=st.integers(0, 60),
)
# At which call of all, what happens, and to whom.
events = st.lists(
    st.tuples(
        st.integers(0, 40), st.sampled_from(["cancel", "preempt", "fail"]), st.integers(0, 7)
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(lives, min_size=1, max_size=8), events)
def test_no_row_is_lost_mixed_up_or_advanced_twice(
    script: list[Life], happenings: list[tuple[int, str, int]]
) -> None:
    loop = asyncio.new_event_loop()  # the session's is for tests that await
    try:
        loop.run_until_complete(asyncio.wait_for(_live(script, happenings), 60))
    finally:
        loop.close()


async def _live(script: list[Life], happenings: list[tuple[int, str, int]]) -> None:
    calls = 0
    cancelled: set[int] = set()

    def happens(verb: str, _what: Any) -> Exception | None:
        nonlocal calls
        if verb != "step":
            return None
        now = [event for event in happenings if event[0] == calls]
        calls += 1
        for _, kind, who in now:
            life = script[who % len(script)]
            if kind == "cancel" and life.work and not life.ended:
                life.work.cancel()
                cancelled.add(who % len(script))
            elif kind == "preempt" and life.work:
                life.work.preempt()
        return unavailable() if any(kind == "fail" for _, kind, _ in now) else None

    tritons = [FakeTriton(), FakeTriton()]
    for triton in tritons:
        triton.fail = happens
    loops = [StepLoop(triton, Ticks()) for triton in tritons]
    running = [asyncio.create_task(each.run()) for each in loops]
    try:
        await asyncio.gather(*(life.live(loops) for life in script))
        for _ in range(5):
            await asyncio.sleep(0)
        assert all(not each._groups for each in loops), "a member was left behind"
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    for number, life in enumerate(script):
        assert life.work
        assert life.told == list(range(1, life.work.step + 1)), "each step once, in order"
        if life.ended == "cancelled":
            assert number in cancelled
            continue
        assert life.ended == "done"
        assert life.work.step == life.steps
        np.testing.assert_array_equal(life.work.latents, await _alone(life))


async def _alone(life: Life) -> Any:
    told, work = life.told, None
    life.told = []
    loop = StepLoop(FakeTriton(), Ticks())
    running = asyncio.create_task(loop.run())
    work = life.begin()
    await loop.denoise(work)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    life.told = told
    return work.latents
