"""What a step costs beside Triton's own computing.

The real step loop and a real Triton, whose denoiser only sleeps; latents of 4x64x64 and embeddings
of 77x768, as Stable Diffusion 1.5 has. Tensors through gRPC and through shared memory take turns in
one run, in blocks, so that a busy machine slows both. Of each step:

    overhead   the whole iteration, less what Triton tells of computing (ModelStatistics)
    gather     rows into the batch
    call       the call, less computing: gRPC, Triton's front end, its queue
    scatter    rows out of the batch
    boundary   the sampler's part: are the values finite, fresh noise, progress
    loop       the rest: whose turn it is
    outside    the whole iteration, less what the model itself slept: the overhead, and all that
               Triton and its Python backend do around the model
    moving     Triton's own compute_input + compute_output: what it moves to and from the model

The model's own overhead (it makes the answer's arrays, and writes a line) is in `outside` too.
Triton's computing is its compute_input + compute_infer + compute_output: moving is in that, and not
in the overhead. Asking for it after each
step is not counted.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from agent.buffers import Region, Shape, StepBuffers, StepRows
from agent.denoising import Denoising
from agent.sampler import Floats, noise, plan
from agent.step_loop import StepLoop
from agent.triton import Triton
from atelier.catalog import ModelCard
from benchmarks.sleeping_repository import Sleeper

LATENTS, TEXT = (4, 64, 64), (2, 77, 768)
SLEEPER = Sleeper("sleeper", 0, 0, 0.1, step_a=0.004, step_c=0.0005, batch_cap=8)
BATCHES = (1, 8)
ROUNDS, STEPS = 10, 25  # blocks of each way, and steps of each
PARTS = ("overhead", "gather", "call", "scatter", "boundary", "loop", "moving", "outside")
WAYS = ("gRPC", "shared memory")


@dataclass
class Step:
    """Moments of one iteration, seconds on one clock; `computed` by Triton."""

    asked: float  # for rows
    sent: float = 0.0
    answered: float = 0.0
    scattered: float = 0.0
    passed: float = 0.0
    computed: float = 0.0
    moved: float = 0.0
    slept: float = 0.0  # by the model, as it says
    telling: float = 0.0  # asking Triton what it computed

    def parts(self, before: float) -> dict[str, float]:
        """Milliseconds of each part; `before`: when the last one had passed."""
        seconds = {
            "overhead": self.passed - before - self.computed - self.telling,
            "outside": self.passed - before - self.slept - self.telling,
            "gather": self.sent - self.asked,
            "call": self.answered - self.sent - self.computed,
            "scatter": self.scattered - self.answered - self.telling,
            "boundary": self.passed - self.scattered,
            "loop": self.asked - before,
            "moving": self.moved,
            "computed": self.computed,
        }
        return {name: value * 1e3 for name, value in seconds.items()}


class Watched:
    """A stepper that notes when its steps begin and end."""

    def __init__(self, triton: Triton) -> None:
        self._triton = triton
        self._told: tuple[int, int] = (0, 0)
        self.steps: list[Step] = []

    def rows(self, count: int, latents: Shape, text: Shape, masked: bool = False) -> StepRows:
        self.steps.append(Step(time.perf_counter()))
        return self._triton.rows(count, latents, text, masked)

    async def step(self, card: ModelCard, shape: str, rows: StepRows) -> tuple[Floats, Floats]:
        step = self.steps[-1]
        step.sent = time.perf_counter()
        answer = await self._triton.step(card, shape, rows)
        step.answered = time.perf_counter()
        computed, moved = await self.statistics(card)
        step.computed = (computed - self._told[0]) / 1e9
        step.moved = (moved - self._told[1]) / 1e9
        self._told = computed, moved
        step.telling = time.perf_counter() - step.answered
        return answer

    async def statistics(self, card: ModelCard) -> tuple[int, int]:
        """Nanoseconds of computing, and of moving in that, since the model was loaded."""
        request = pb.ModelStatisticsRequest(name=card.components.denoiser)
        answer = await self._triton._call("ModelStatistics", request, 5.0)
        told = answer.model_stats[0].inference_stats
        moved = told.compute_input.ns + told.compute_output.ns
        return told.compute_infer.ns + moved, moved

    async def begin(self, card: ModelCard) -> None:
        """Count from now on."""
        self.steps = []
        self._told = await self.statistics(card)


def work(card: ModelCard, seed: int, sampler: str, on_step: Callable[[], None]) -> Denoising:
    latents = noise(seed, 0, LATENTS)[np.newaxis]
    return Denoising(
        card=card,
        shape="64x64",
        plan=plan(card.schedule, sampler, STEPS),
        guidance=1.0 + seed * 1e-3,
        text_embeddings=np.zeros(TEXT, np.float32),
        latents=latents,
        denoised_prev=np.zeros_like(latents),
        seeds=(seed,),
        on_step=lambda _step, _seconds: on_step(),
    )


async def block(
    triton: Triton, card: ModelCard, spans: Path, rows: int, sampler: str
) -> list[dict[str, float]]:
    """One block's steps in parts, but for the first, which may lay out memory."""
    watched = Watched(triton)
    await watched.begin(card)

    def scattered(*_: object) -> None:
        watched.steps[-1].scattered = time.perf_counter()

    def passed() -> None:  # by each member; the last one's counts
        watched.steps[-1].passed = time.perf_counter()

    loop = StepLoop(watched, time.perf_counter, on_batch=scattered)
    members = [work(card, seed, sampler, passed) for seed in range(rows)]
    denoising = [asyncio.create_task(loop.denoise(member)) for member in members]
    await asyncio.sleep(0)  # all are in before the first step
    running = asyncio.create_task(loop.run())
    await asyncio.gather(*denoising)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    steps = watched.steps
    assert len(steps) == STEPS
    note_sleep(steps, spans, rows)
    return [now.parts(before.passed) for before, now in itertools.pairwise(steps)]


def note_sleep(steps: list[Step], spans: Path, rows: int) -> None:
    """What the model wrote down of the block's steps."""
    told = [json.loads(line) for line in spans.read_text().splitlines()[-STEPS:]]
    for step, span in zip(steps, told, strict=True):
        assert (span["kind"], span["rows"]) == ("steps", rows)
        step.slept = span["ended"] - span["began"]


def no_memory(_size: int) -> Region:
    """Tensors go through gRPC, as where Triton has another host."""
    raise OSError("gRPC is measured")


async def costs(address: str, key: str, card: ModelCard, spans: Path) -> list[dict[str, Any]]:
    """Each way at each batch. `spans`: where the model writes down what it did."""
    ways = {
        "gRPC": Triton(address, key, StepBuffers(no_memory)),
        "shared memory": Triton(address, key),
    }
    found: dict[tuple[int, str, str], list[dict[str, float]]] = {}
    kinds = [(rows, "ddim") for rows in BATCHES] + [(max(BATCHES), "euler_ancestral")]
    for _ in range(ROUNDS):
        for rows, sampler in kinds:
            for way, triton in ways.items():
                found.setdefault((rows, sampler, way), [])
                found[rows, sampler, way] += await block(triton, card, spans, rows, sampler)
    for triton in ways.values():
        await triton.close()
    return [
        {"rows": rows, "sampler": sampler, "way": way, "steps": len(steps), **summary(steps)}
        for (rows, sampler, way), steps in found.items()
    ]


def summary(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of all parts, and the overhead's p90: milliseconds."""
    medians = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
    overheads = [step["overhead"] for step in steps]
    p90 = statistics.quantiles(overheads, n=10)[-1]
    return {name: round(value, 3) for name, value in (medians | {"overhead_p90": p90}).items()}
