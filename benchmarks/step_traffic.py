"""One load, brought to a device in several ways: pictures a second, latencies, batches.

The load is closed: so many callers, each of whom asks for the next picture when the last is there,
from one seeded list of mixed steps and samplers. Pictures a second count row-steps, as long as the
list lasts and every caller has one: row-steps a second over the steps of a mean picture. So neither
the beginning nor the end of a run is taken for what lies between. The calls that are counted are of
the same time. Latencies are of all pictures.

The ideal: the device is never idle, and every batch holds as many rows as there are callers, or as
the cap allows.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from agent.denoising import Denoising
from agent.sampler import Floats, noise, plan
from agent.triton import Triton
from atelier.catalog import ModelCard
from benchmarks.step_ways import Seats, Way, loops, requests

STEPS = (4, 8, 12, 20, 30, 50)
SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m")
SEED = 5
DELAY_MICROSECONDS = 2000  # that Triton's batcher waits for more rows
LOCKSTEP, COHORTS, BATCHER = "one lockstep batch", "two cohorts", "Triton's batcher"
REQUESTS, PADDED, NONE = "request by request", "request by request, padded", "one at a time"


@dataclass(frozen=True)
class Job:
    """A picture that is asked for."""

    seed: int
    steps: int
    sampler: str


@dataclass(frozen=True)
class Bench:
    """A device to be measured.

    merging: the same model, with Triton's batcher.
    pictures: how many are asked for, by the number of callers.
    ways, again: what is measured, and what of that once more.
    decodes: whether a picture's text and pixels are made as well.
    spans: where a sleeping model writes down what it did.
    """

    name: str
    address: str
    key: str
    card: ModelCard
    merging: ModelCard
    shape: str
    text: Floats  # (2, tokens, width)
    pictures: dict[int, int]
    ways: tuple[str, ...]
    again: tuple[str, ...] = ()
    decodes: bool = False
    token_ids: Any = None
    spans: Path | None = None


def jobs(count: int) -> list[Job]:
    """The first of one endless list."""
    rng = Random(SEED)
    return [Job(n, rng.choice(STEPS), rng.choice(SAMPLERS)) for n in range(count)]


def merging(repository: Path, card: ModelCard) -> ModelCard:
    """The card's denoiser once more, under another name, whose requests Triton merges."""
    old = repository / card.components.denoiser
    new = old.with_name(f"merging_{old.name}")
    (new / "1").mkdir(parents=True)
    for file in (old / "1").iterdir():
        (new / "1" / file.name).symlink_to(file.absolute())
    lines = [
        line
        for line in (old / "config.pbtxt").read_text().splitlines()
        if not line.startswith("dynamic_batching")
    ]
    config = "\n".join(lines).replace(f'"{old.name}"', f'"{new.name}"')
    config += f"\ndynamic_batching {{ max_queue_delay_microseconds: {DELAY_MICROSECONDS} }}\n"
    (new / "config.pbtxt").write_text(config)
    return replace(card, components=replace(card.components, denoiser=new.name))


async def measure(bench: Bench, callers: int, way: str) -> dict[str, Any]:
    """One way at one load."""
    card = bench.merging if way == BATCHER else bench.card
    work = jobs(bench.pictures[callers])
    client = Triton(bench.address, bench.key)
    done: list[float] = []  # when each row made a step that was asked for
    calls: list[dict[int, int]] = []

    async with entered(bench, card, way, callers) as denoiser:

        async def picture(job: Job) -> None:
            text = bench.text
            if bench.decodes:
                text = await client.encode_text(card, bench.token_ids)
            denoising = begin(card, bench.shape, text, job)

            def on_step(step: int, _seconds: float) -> None:
                if step <= job.steps:
                    done.append(time.perf_counter())

            denoising.on_step = on_step
            await denoiser.denoise(denoising)
            if bench.decodes:
                await client.decode(card, denoising.latents)

        async def count() -> None:
            calls.append(await batches(client, card))

        await count()
        began, held, latencies = await drive(work, callers, picture, count)
    await client.close()
    assert len(done) == sum(job.steps for job in work)
    before, after = calls
    sizes = {n: after[n] - before.get(n, 0) for n in sorted(after) if after[n] > before.get(n, 0)}
    mean_steps = statistics.mean(job.steps for job in work)
    found = {
        "pictures_per_second": sum(at <= held for at in done) / (held - began) / mean_steps,
        "p50_seconds": float(np.percentile(latencies, 50)),
        "p99_seconds": float(np.percentile(latencies, 99)),
        "rows_per_call": sum(n * times for n, times in sizes.items()) / sum(sizes.values()),
    }
    if bench.spans:
        profile = card.profile(bench.shape)
        rows = min(callers, profile.batch_cap)
        ideal = rows / profile.seconds_of_step(rows) / mean_steps
        found["of_ideal"] = found["pictures_per_second"] / ideal
        found["device_busy"] = busy(bench.spans, began, held)
    return {
        "device": bench.name, "way": way, "callers": callers, "pictures": len(work),
        **{name: round(value, 4) for name, value in found.items()},
        "batches": {str(n): times for n, times in sizes.items()},
    }  # fmt: skip


@asynccontextmanager
async def entered(bench: Bench, card: ModelCard, way: str, callers: int) -> AsyncIterator[Way]:
    """A way, with memory shared and everything warm."""
    count = {COHORTS: 2, BATCHER: callers}.get(way, 1)
    cap = card.profile(bench.shape).batch_cap
    async with loops(bench.address, bench.key, count) as spread:
        warm = [begin(card, bench.shape, bench.text, Job(n, 2, "ddim")) for n in range(count)]
        await asyncio.gather(*(spread.denoise(work) for work in warm))
        if way in (REQUESTS, PADDED):
            async with requests(spread, cap, padded=way == PADDED) as gated:
                yield gated
        elif way in (LOCKSTEP, NONE):
            yield Seats(spread, cap if way == LOCKSTEP else 1)
        else:
            yield spread


async def drive(
    work: list[Job],
    callers: int,
    picture: Callable[[Job], Awaitable[None]],
    emptied: Callable[[], Awaitable[None]],
) -> tuple[float, float, list[float]]:
    """When the load began, until when every caller had a picture under way, and all latencies.

    `emptied` is called when the last picture is taken from the list.
    """
    waiting, latencies = deque(work), []
    held = began = time.perf_counter()

    async def caller() -> None:
        nonlocal held
        while waiting:
            job, asked = waiting.popleft(), time.perf_counter()
            if not waiting:
                held = asked
                await emptied()
            await picture(job)
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return began, held, latencies


def begin(card: ModelCard, shape: str, text: Floats, job: Job) -> Denoising:
    width, height = (int(side) for side in shape.split("x"))
    latents = noise(job.seed, 0, card.latents.shape(width, height))[np.newaxis]
    return Denoising(
        card=card,
        shape=shape,
        plan=plan(card.schedule, job.sampler, job.steps),
        guidance=1.0 + job.seed * 1e-3,
        text_embeddings=text,
        latents=latents,
        denoised_prev=np.zeros_like(latents),
        seeds=(job.seed,),
    )


async def batches(client: Triton, card: ModelCard) -> dict[int, int]:
    """How many calls of each size the denoiser has answered, as Triton tells."""
    request = pb.ModelStatisticsRequest(name=card.components.denoiser)
    answer = await client._call("ModelStatistics", request, 5.0)
    return {b.batch_size: b.compute_infer.count for b in answer.model_stats[0].batch_stats}


def busy(spans: Path, began: float, held: float) -> float:
    """Share of the time that the device slept as a model; spans are on the same clock."""
    told = [json.loads(line) for line in spans.read_text().splitlines()]
    parts = (min(s["ended"], held) - max(s["began"], began) for s in told if s["kind"] == "steps")
    return float(sum(part for part in parts if part > 0) / (held - began))
