"""How much a picture depends on who shared its batches, and on where it was taken up again.

The arithmetic of a row is the same in every batch, but its order need not be: a library may sum up
otherwise where there are more rows. So tiny-image's pictures are made alone, in batches of 2 to 16
rows, and in two halves, one in a full batch and one alone, and compared: in latents by the largest
difference, in pixels (8 bits) by PSNR, of which 100 dB stands for equal bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.denoising import Denoising
from agent.sampler import Floats
from agent.triton import Triton
from agent.work import AttemptPreemptedError
from benchmarks.step_traffic import SAMPLERS, Bench, Job, begin
from benchmarks.step_ways import Loops, loops

ROWS = 16
STEPS = 8
REPEATED = 8  # rows of the batch that is made twice
EQUAL_DB = 100.0


@dataclass(frozen=True)
class Made:
    """Pictures, in latents float32 (n, C, h, w) and in pixels uint8 (n, H, W, 3)."""

    latents: Floats
    pixels: NDArray[np.uint8]


async def likeness(bench: Bench, sizes: Sequence[int] = range(1, ROWS + 1)) -> list[dict[str, Any]]:
    """For each batch size, and for each kind of resume, how far from the same made alone."""
    client = Triton(bench.address, bench.key)
    text = await client.encode_text(bench.card, bench.token_ids)
    async with loops(bench.address, bench.key, 1) as loop:

        def works(count: int) -> list[Denoising]:
            jobs = [Job(n, STEPS, SAMPLERS[n % len(SAMPLERS)]) for n in range(count)]
            return [begin(bench.card, bench.shape, text, job) for job in jobs]

        async def made(of: Sequence[Denoising]) -> Made:
            """Decoded one by one, so that only the steps can differ."""
            latents = np.concatenate([work.latents for work in of])
            pixels = [await client.decode(bench.card, latents[n : n + 1]) for n in range(len(of))]
            return Made(latents, np.concatenate(pixels))

        alone = works(ROWS)
        await in_batches(loop, alone, 1)
        reference = await made(alone)
        found: list[dict[str, Any]] = []
        for size in sizes:
            together = works(size)
            await in_batches(loop, together, size)
            batch = await made(together)
            found.append({"what": f"{size} rows, against 1", **compared(batch, reference)})
            if size == REPEATED:
                again = works(size)
                await in_batches(loop, again, size)
                once_more = compared(await made(again), batch)
                found.append({"what": f"{size} rows, against {size}", **once_more})
        for kind, before, after in (
            ("left 16 rows, went on alone", ROWS, 1), ("left alone, went on in 16 rows", 1, ROWS)
        ):  # fmt: skip
            halves = works(ROWS)
            await halfway(loop, halves, before)
            await in_batches(loop, halves, after)
            found.append({"what": kind, **compared(await made(halves), reference)})
    await client.close()
    return found


async def halfway(loop: Loops, works: Sequence[Denoising], size: int) -> None:
    """Take them off after half of their steps."""
    for work in works:
        work.on_step = partial(_leave_at_half, work)
    await in_batches(loop, works, size)
    for work in works:
        work.preempted = False
        work.on_step = lambda _step, _seconds: None


def _leave_at_half(work: Denoising, step: int, _seconds: float) -> None:
    if step == STEPS // 2 - 1:  # heard at the next boundary
        work.preempt()


async def in_batches(loop: Loops, works: Sequence[Denoising], size: int) -> None:
    for start in range(0, len(works), size):
        batch = works[start : start + size]
        ended = await asyncio.gather(*map(loop.denoise, batch), return_exceptions=True)
        assert all(each is None or isinstance(each, AttemptPreemptedError) for each in ended), ended


def compared(these: Made, those: Made) -> dict[str, Any]:
    """The first rows of `those` are the same pictures."""
    count = len(these.latents)
    difference = np.abs(these.latents - those.latents[:count])
    decibels = [psnr(a, b) for a, b in zip(these.pixels, those.pixels, strict=False)]
    pixels = np.abs(these.pixels.astype(int) - those.pixels[:count])
    return {
        "max_abs_latents": float(f"{difference.max():.3g}"),
        "max_abs_pixels": int(pixels.max()),
        "psnr": round(min(decibels), 2),
        "equal_pictures": sum(each == EQUAL_DB for each in decibels),
        "pictures": count,
    }


def psnr(these: NDArray[np.uint8], those: NDArray[np.uint8]) -> float:
    """Of 8-bit pixels, in dB; EQUAL_DB at most."""
    error = float(np.mean((these.astype(float) - those) ** 2))
    return EQUAL_DB if error == 0 else min(EQUAL_DB, 10 * float(np.log10(255**2 / error)))
