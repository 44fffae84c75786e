"""Two thousand generations through one loop leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import numpy as np

from agent.denoising import Denoising
from agent.sampler import noise, plan
from agent.step_loop import StepLoop
from tests.support.cards import profile, toy_card
from tests.support.regions import left_behind
from tests.unit.agent.fakes import InPlaceTriton, Ticks

CARD = toy_card(profiles=profile(activation_bytes=10, batch_cap=8))
GENERATIONS, WARM, CALLERS = 2000, 200, 16
SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m")
# A generation that stayed would be 17 kB; anything of 64 bytes for each of them is seen too.
GROWTH_BYTES = 100_000


def begin(number: int) -> Denoising:
    latents = np.stack([noise(number + row, 0, (4, 4, 4)) for row in range(1 + number % 2)])
    return Denoising(
        card=CARD,
        shape="64x64",
        plan=plan(CARD.schedule, SAMPLERS[number % 3], 1 + number % 3),
        guidance=1.5,
        text_embeddings=np.full((2, 32, 64), number, np.float32),
        latents=latents,
        denoised_prev=np.zeros_like(latents),
        seeds=tuple(number + row for row in range(len(latents))),
    )


def in_use() -> int:
    """Bytes of Python's and numpy's."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def test_memory_is_flat_over_two_thousand_generations() -> None:
    triton = InPlaceTriton()
    loop = StepLoop(triton, Ticks())
    running = asyncio.create_task(loop.run())
    numbers = iter(range(GENERATIONS))
    names: set[str] = set()
    warm = 0

    async def caller() -> None:
        nonlocal warm
        for number in numbers:
            await loop.denoise(begin(number))
            triton.batches.clear()
            assert triton.buffers.region
            names.add(triton.buffers.region.name)
            if number == WARM:
                warm = in_use()

    tracemalloc.start()
    try:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        grown = in_use() - warm
    finally:
        tracemalloc.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert warm
    assert grown < GROWTH_BYTES
    triton.buffers.abandon()
    assert len(names) <= 4  # it grew to the largest batch, and stayed
    assert left_behind(names) == []
