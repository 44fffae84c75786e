"""How the rows of several generations make batches, and come back. No I/O."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agent.buffers import StepRows
from agent.denoising import Denoising
from agent.sampler import Floats


@dataclass(eq=False)
class Member:
    """A Denoising in the loop, and what the step under way has made of it so far."""

    work: Denoising
    done: asyncio.Future[None]
    next_latents: Floats
    next_denoised: Floats
    fresh: Floats | None = None  # noise to be added after it
    error: Exception | None = None


Slice = tuple[Member, int, int]  # rows [low, high) of a member


def batches(group: list[Member], most: int) -> list[list[Slice]]:
    """The group's rows, in order, in batches of at most `most`, and of what profile, model and
    memory allow."""
    first = group[0].work
    granted = sum(member.work.granted or member.work.rows for member in group)
    cap = min(first.card.max_rows, first.card.profile(first.shape).batch_cap, granted, most)
    return cut([(member, 0, member.work.rows) for member in group], max(1, cap))


def cut(batch: list[Slice], most: int) -> list[list[Slice]]:
    """The rows of a batch, in order, in batches of at most `most`."""
    made: list[list[Slice]] = []
    room = 0
    for member, low, end in batch:
        while low < end:
            if room == 0:
                made.append([])
                room = most
            high = min(end, low + room)
            made[-1].append((member, low, high))
            room -= high - low
            low = high
    return made


def rows_of(batch: list[Slice]) -> int:
    """How many."""
    return sum(high - low for _, low, high in batch)


def gather_given(batch: list[Slice], rows: StepRows) -> None:
    """Write what stays as it is from step to step: the text of a batch's rows, and the mask."""
    start = 0
    for member, low, high in batch:
        end = start + high - low
        rows.text_embeddings[start:end] = member.work.text_embeddings
        shown = member.work.shown
        if shown and rows.mask is not None and rows.known is not None:
            rows.mask[start:end] = shown.mask
            rows.known[start:end] = shown.known
        start = end


def gather(batch: list[Slice], rows: StepRows) -> None:
    """Write the rows of a batch, in its order, but for what was given."""
    start = 0
    for member, low, high in batch:
        work, end = member.work, start + high - low
        rows.latents[start:end] = work.latents[low:high]
        rows.denoised_prev[start:end] = work.denoised_prev[low:high]
        rows.timestep[start:end] = work.plan.timesteps[work.step]
        rows.guidance[start:end] = work.guidance
        rows.coefficients[start:end] = work.plan.coefficients[work.step]
        start = end


def scatter(batch: list[Slice], latents: Floats, denoised: Floats) -> None:
    """Hand each member its rows of what came back."""
    start = 0
    for member, low, high in batch:
        end = start + high - low
        member.next_latents[low:high] = latents[start:end]
        member.next_denoised[low:high] = denoised[start:end]
        start = end
