"""Generations by script, for tests of the step loop: what befalls them and what is seen."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from agent.checkpoint import Checkpoint, pack, unpack
from agent.denoising import Denoising
from agent.sampler import noise, plan
from agent.start import Given, fresh_noise
from agent.step_loop import StepLoop
from agent.work import AttemptCancelledError, AttemptPreemptedError
from atelier.errors import ExecutionError
from tests.support.cards import profile, toy_card
from tests.unit.agent.fakes import FakeTriton, Ticks

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
    saved: int = 0  # steps, at most all but one, by a picture to start from
    masked: bool = False  # some of a picture is kept
    work: Denoising | None = None
    told: list[int] = field(default_factory=list)
    ended: str = ""

    def begin(self) -> Denoising:
        size = (4, *(int(side) // 4 for side in self.shape.split("x")))
        first = min(self.saved, self.steps - 1)
        way = plan(CARD.schedule, self.sampler, self.steps, first)
        seeds = tuple(self.seed * 10 + i for i in range(self.rows))
        fresh, given = fresh_noise(seeds, size), Given()
        if self.masked or first:
            picture = noise(self.seed, 99, size)
            given = Given(picture, picture[:1] > 0 if self.masked else None)
        latents = given.begin(way, fresh)
        return Denoising(
            card=CARD,
            shape=self.shape,
            plan=way,
            guidance=1.0 + self.seed / 10,
            text_embeddings=np.full((2, 32, 64), self.seed / 10, dtype=np.float32),
            latents=latents,
            denoised_prev=np.zeros_like(latents),
            seeds=seeds,
            step=first,
            on_step=lambda step, _seconds: self.told.append(step),
            kept=given.kept(fresh),
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
    saved=st.sampled_from([0, 0, 1, 4]),
    masked=st.booleans(),
)


def check(script: list[Life], cancelled: set[int], expected: list[Any]) -> None:
    """No row was lost, mixed up with another's, or advanced twice. `cancelled`: by number."""
    for number, (life, latents) in enumerate(zip(script, expected, strict=True)):
        assert life.work
        assert life.told == list(range(1, life.work.made + 1)), "each step once, in order"
        if life.ended == "cancelled":
            assert number in cancelled
            continue
        assert life.ended == "done"
        assert life.work.step == life.steps
        np.testing.assert_array_equal(life.work.latents, latents)
        if kept := life.work.kept:
            outside = ~np.broadcast_to(kept.new, latents[0].shape)
            assert (latents[:, outside] == kept.picture[outside]).all()


async def alone(life: Life) -> Any:
    """The latents that it would have on a device of its own."""
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
