"""Two thousand generations through one loop leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Iterator

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
GROWTH_BYTES = 50_000  # 28 a generation; one that stayed would be 18,000, its future alone 130


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
    names: set[str] = set()

    async def caller(numbers: Iterator[int]) -> None:
        for number in numbers:
            await loop.denoise(begin(number))
            triton.batches.clear()
            assert triton.buffers.region
            names.add(triton.buffers.region.name)

    async def generations(first: int, end: int) -> int:
        """Bytes in use when they are through."""
        numbers = iter(range(first, end))
        await asyncio.gather(*(caller(numbers) for _ in range(CALLERS)))
        return in_use()

    tracemalloc.start()
    try:
        warm = await generations(0, WARM)
        grown = await generations(WARM, GENERATIONS) - warm
    finally:
        tracemalloc.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert grown < GROWTH_BYTES
    triton.buffers.abandon()
    assert len(names) <= 4  # it grew to the largest batch, and stayed
    assert left_behind(names) == []
