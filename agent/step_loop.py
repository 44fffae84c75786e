"""The M: runs the denoise steps of all generations on one device, batched step by step.

Generations of one (model, shape) advance together: an iteration gathers the rows of every member,
makes one denoiser call (or several, where there are more rows than a batch may have), and scatters
what comes back. Timestep, guidance and coefficients are rows, so members may differ in sampler,
number of steps, guidance and seed. A newcomer joins at the next iteration, a finished one leaves at
once, and groups of different (model, shape) take turns, one iteration each.

The step boundary is where things happen: cancellation and preemption are heard, progress is told,
and a member's `latents`, `denoised_prev` and `step` together are its checkpoint, always of the same
step, also when it has left.

Who may write: a Denoising belongs to this loop from `denoise` until that returns; others may only
call `cancel` and `preempt`. There are no locks: everything between two awaits is atomic.

Refused: a task per generation that calls Triton and leaves the batching to its dynamic batcher.
That needs a queue delay, forms batches by chance (a step in phase never meets the one out of
phase), and hides the batch, whose time the scheduler needs to know.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import structlog

from agent.buffers import Shape, StepRows
from agent.sampler import Floats, Plan, renew
from agent.work import AttemptCancelledError, AttemptPreemptedError
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError

log = structlog.get_logger()


class Stepper(Protocol):
    """What the loop needs of a device."""

    def rows(self, count: int, latents: Shape, text: Shape) -> StepRows: ...

    async def step(self, card: ModelCard, shape: str, rows: StepRows) -> tuple[Floats, Floats]: ...


@dataclass(eq=False)
class Denoising:
    """A generation's way from noise to latents, n pictures at once.

    text_embeddings: float32 (2, tokens, width), negative first, shared by the pictures.
    latents, denoised_prev: float32 (n, C, h, w), after `step` steps.
    seeds: of the n pictures, for samplers that add noise on the way.
    granted: of the n, how many may be in one call; 0: as the card says.
    on_step: called at each step boundary with the steps done and the seconds of the last one.
    """

    card: ModelCard
    shape: str
    plan: Plan
    guidance: float
    text_embeddings: Floats
    latents: Floats
    denoised_prev: Floats
    seeds: tuple[int, ...]
    granted: int = 0
    step: int = 0
    on_step: Callable[[int, float], None] = lambda _step, _seconds: None
    cancelled: bool = field(default=False, init=False)
    preempted: bool = field(default=False, init=False)

    @property
    def rows(self) -> int:
        return len(self.latents)

    def cancel(self) -> None:
        """Leave at the next step boundary."""
        self.cancelled = True

    def preempt(self) -> None:
        """Leave at the next step boundary, with that step done; not where it is the last."""
        self.preempted = True


@dataclass(eq=False)
class _Member:
    """A Denoising in the loop, and what the step under way has made of it so far."""

    work: Denoising
    done: asyncio.Future[None]
    next_latents: Floats
    next_denoised: Floats
    error: Exception | None = None


_Slice = tuple[_Member, int, int]  # rows [low, high) of a member


class StepLoop:
    """One device's loop. `run` must be running for `denoise` to come back."""

    def __init__(
        self,
        stepper: Stepper,
        clock: Callable[[], float],
        *,
        on_batch: Callable[[ModelCard, str, int, float], None] = lambda *_: None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_batch`: called after each denoiser call that went well, with its model, shape, rows
        and seconds; the largest only, where a step takes several. `on_idle`: nothing is left."""
        self._stepper = stepper
        self._clock = clock
        self._on_batch = on_batch
        self._on_idle = on_idle
        self._groups: OrderedDict[tuple[str, str], list[_Member]] = OrderedDict()
        self._wake = asyncio.Event()

    async def denoise(self, work: Denoising) -> None:
        """Run all steps that are left of `work`; its latents are the result.

        Raises:
            ExecutionError: a step failed.
            AttemptCancelledError: `work.cancel()` was called.
            AttemptPreemptedError: `work.preempt()` was called; `work` is where it left off.
        """
        member = _Member(
            work,
            asyncio.get_running_loop().create_future(),
            np.empty_like(work.latents),
            np.empty_like(work.denoised_prev),
        )
        self._groups.setdefault((work.card.name, work.shape), []).append(member)
        self._wake.set()
        await member.done  # a caller that is cancelled cancels it, and the loop lets go

    async def run(self) -> None:
        """Advance the groups in turn, for ever."""
        while True:
            self._wake.clear()
            if (group := self._next_group()) is None:
                self._on_idle()
                await self._wake.wait()
            else:
                await self._advance(group)

    def _next_group(self) -> list[_Member] | None:
        """The group whose turn it is; members that were cancelled or are through have left it."""
        for key in list(self._groups):
            staying = [member for member in self._groups[key] if _stays(member)]
            if staying:
                self._groups[key] = staying
                self._groups.move_to_end(key)
                return staying
            del self._groups[key]
        return None

    async def _advance(self, group: list[_Member]) -> None:
        """One step of every member; a call that fails takes with it those who had rows in it."""
        group = list(group)  # newcomers wait for the next step
        started = before = self._clock()
        for i, batch in enumerate(_batches(group)):
            went_well = await self._call(batch)
            after = self._clock()
            if went_well and i == 0:  # the first is the largest
                rows = sum(high - low for _, low, high in batch)
                self._on_batch(group[0].work.card, group[0].work.shape, rows, after - before)
            before = after
        for member in group:
            _pass_boundary(member, before - started)

    async def _call(self, batch: list[_Slice]) -> bool:
        """Whether it went well; a failure is its members'."""
        work = batch[0][0].work
        try:
            count = sum(high - low for _, low, high in batch)
            rows = self._stepper.rows(count, work.latents.shape[1:], work.text_embeddings.shape)
            _gather(batch, rows)
            latents, denoised = await self._stepper.step(work.card, work.shape, rows)
            _scatter(batch, latents, denoised)
            return True
        except ExecutionError as error:
            for member, _, _ in batch:
                member.error = error
        except Exception as error:
            log.exception("step failed", model=work.card.name, shape=work.shape)
            failure = ExecutionError("the step failed in the agent", retryable=True)
            failure.__cause__ = error
            for member, _, _ in batch:
                member.error = failure
        return False


def _stays(member: _Member) -> bool:
    """Whether it takes part in the next step; it is let go otherwise."""
    if member.done.done():
        return False
    if member.work.cancelled:
        member.done.set_exception(AttemptCancelledError())
    elif member.work.step >= member.work.plan.steps:
        member.done.set_result(None)
    elif member.work.preempted:
        member.done.set_exception(AttemptPreemptedError())
    return not member.done.done()


def _batches(group: list[_Member]) -> list[list[_Slice]]:
    """The group's rows, in order, in batches of at most what profile, model and memory allow."""
    first = group[0].work
    granted = sum(member.work.granted or member.work.rows for member in group)
    cap = max(1, min(first.card.max_rows, first.card.profile(first.shape).batch_cap, granted))
    batches: list[list[_Slice]] = []
    room = 0
    for member in group:
        low = 0
        while low < member.work.rows:
            if room == 0:
                batches.append([])
                room = cap
            high = min(member.work.rows, low + room)
            batches[-1].append((member, low, high))
            room -= high - low
            low = high
    return batches


def _gather(batch: list[_Slice], rows: StepRows) -> None:
    """Write the rows of a batch, in its order, where the step takes them from."""
    start = 0
    for member, low, high in batch:
        work, end = member.work, start + high - low
        rows.latents[start:end] = work.latents[low:high]
        rows.denoised_prev[start:end] = work.denoised_prev[low:high]
        rows.timestep[start:end] = work.plan.timesteps[work.step]
        rows.text_embeddings[start:end] = work.text_embeddings
        rows.guidance[start:end] = work.guidance
        rows.coefficients[start:end] = work.plan.coefficients[work.step]
        start = end


def _scatter(batch: list[_Slice], latents: Floats, denoised: Floats) -> None:
    """Hand each member its rows of what came back."""
    start = 0
    for member, low, high in batch:
        end = start + high - low
        member.next_latents[low:high] = latents[start:end]
        member.next_denoised[low:high] = denoised[start:end]
        start = end


def _pass_boundary(member: _Member, seconds: float) -> None:
    """The member's step is over: fail, leave, or commit it as the new checkpoint."""
    work = member.work
    if member.done.done():
        return
    if work.cancelled:
        member.done.set_exception(AttemptCancelledError())
    elif member.error is not None:
        member.done.set_exception(member.error)
    elif not (np.isfinite(member.next_latents).all() and np.isfinite(member.next_denoised).all()):
        member.done.set_exception(
            ExecutionError(
                f"step {work.step + 1} gave values that are not finite",
                retryable=False,
                reason="INVALID_OUTPUT",
            )
        )
    else:
        work.latents, member.next_latents = member.next_latents, work.latents
        work.denoised_prev, member.next_denoised = member.next_denoised, work.denoised_prev
        work.step += 1
        renew(work.latents, work.plan, work.step, work.seeds)
        if work.step == work.plan.steps:
            member.done.set_result(None)
        elif work.preempted:
            member.done.set_exception(AttemptPreemptedError())
        work.on_step(work.step, seconds)
