"""The M: runs the denoise steps of all generations on one device, batched step by step.

Generations of one (model, shape) advance together: an iteration gathers the rows of every member,
makes one denoiser call (or several, where there are more rows than a batch may have), and scatters
what comes back. Timestep, guidance and coefficients are rows, so members may differ in sampler,
number of steps, guidance and seed. A newcomer joins at the next iteration, a finished one leaves at
once, and groups of different (model, shape) take turns, one iteration each.

What need not be done while the device waits is not: fresh noise is drawn while the step that it is
added to is under way, in a thread, and text that lies in the batch already is not written again.
docs/steps.md has what a step costs, and what was measured of other designs.

The step boundary is where things happen: cancellation and preemption are heard, progress is told,
and a member's `latents`, `denoised_prev` and `step` together are its checkpoint, always of the same
step, also when it has left.

Who may write: a Denoising belongs to this loop from `denoise` until that returns; others may only
call `cancel` and `preempt`. There are no locks: everything between two awaits is atomic, and the
thread writes only what nobody reads before it is done.

Refused, both measured (docs/steps.md): two cohorts, one's host work behind the other's device time.
Halved batches cost more than that hides, unless the host takes longer than what a step takes
whatever its rows. And a task per generation that calls Triton and leaves batching to its dynamic
batcher: that needs a queue delay, forms batches by chance (a step in phase never meets the one out
of phase), and hides the batch, whose time the scheduler needs to know.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import structlog

from agent.buffers import Shape, StepRows
from agent.denoising import Denoising
from agent.sampler import Floats, renewal
from agent.step_batch import Member, Slice, batches, cut, gather, gather_given, rows_of, scatter
from agent.triton_errors import KILLED, OUT_OF_MEMORY, SUSPECT
from agent.work import AttemptCancelledError, AttemptPreemptedError
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError

log = structlog.get_logger()

LEARNED_STEPS = 1_000  # for which fewer rows are taken after a call ran out of memory


class Stepper(Protocol):
    """What the loop needs of a device."""

    def rows(self, count: int, latents: Shape, text: Shape, masked: bool = False) -> StepRows: ...

    async def step(self, card: ModelCard, shape: str, rows: StepRows) -> tuple[Floats, Floats]: ...


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
        self._groups: OrderedDict[tuple[object, ...], list[Member]] = OrderedDict()
        # (model, shape) -> rows that a call may have, and for how many steps that is believed
        self._learned: dict[tuple[str, str], tuple[int, int]] = {}
        self._wake = asyncio.Event()
        self._noise_thread = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._laid_out: tuple[StepRows, list[Slice]] | None = None  # whose text lies where

    async def denoise(self, work: Denoising) -> None:
        """Run all steps that are left of `work`; its latents are the result.

        Raises:
            ExecutionError: a step failed.
            AttemptCancelledError: `work.cancel()` was called.
            AttemptPreemptedError: `work.preempt()` was called; `work` is where it left off.
        """
        member = Member(
            work,
            asyncio.get_running_loop().create_future(),
            np.empty_like(work.latents),
            np.empty_like(work.denoised_prev),
        )
        key = (work.card.name, work.shape, work if work.alone else None)
        self._groups.setdefault(key, []).append(member)
        self._wake.set()
        await member.done  # a caller that is cancelled cancels it, and the loop lets go

    async def run(self) -> None:
        """Advance the groups in turn, for ever."""
        while True:
            self._wake.clear()
            if (group := self._next_group()) is None:
                self._laid_out = None
                self._on_idle()
                await self._wake.wait()
            else:
                await self._advance(group)

    def _next_group(self) -> list[Member] | None:
        """The group whose turn it is; members that were cancelled or are through have left it."""
        for key in list(self._groups):
            staying = [member for member in self._groups[key] if _stays(member)]
            if staying:
                self._groups[key] = staying
                self._groups.move_to_end(key)
                return staying
            del self._groups[key]
        return None

    async def _advance(self, group: list[Member]) -> None:
        """One step of every member; a call that fails takes with it those who had rows in it."""
        group = list(group)  # newcomers wait for the next step
        drawing = self._noise_thread.submit(_draw, noisy) if (noisy := _noisy(group)) else None
        work, started = group[0].work, self._clock()
        before, told = started, False
        pending = batches(group, self._most(work))
        while pending:
            batch = pending.pop(0)
            error = await self._call(batch)
            after, rows = self._clock(), rows_of(batch)
            if error is None and not told:  # the first is the largest
                told = True
                self._on_batch(work.card, work.shape, rows, after - before)
            elif error and error.reason == OUT_OF_MEMORY and rows > 1:
                most = self._learn(work, rows // 2)
                pending = [piece for each in (batch, *pending) for piece in cut(each, most)]
            elif error:
                for member, _, _ in batch:
                    member.error = member.error or error  # what came first may be why of the rest
            before = after
        if drawing and not drawing.done():
            await asyncio.wrap_future(drawing)
        for member in group:
            _pass_boundary(member, before - started)

    def _most(self, work: Denoising) -> int:
        """Rows of a call, as far as a call of more ran out of memory; tried again after a while."""
        most, calls = self._learned.get((work.card.name, work.shape), (work.card.max_rows, 0))
        if calls > 1:
            self._learned[work.card.name, work.shape] = (most, calls - 1)
        else:
            self._learned.pop((work.card.name, work.shape), None)
        return most

    def _learn(self, work: Denoising, most: int) -> int:
        log.warning("out of memory", model=work.card.name, shape=work.shape, rows_from_now=most)
        self._learned[work.card.name, work.shape] = (most, LEARNED_STEPS)
        return most

    async def _call(self, batch: list[Slice]) -> ExecutionError | None:
        """None if it went well, else why not."""
        work = batch[0][0].work
        try:
            latents, text = work.latents.shape[1:], work.text_embeddings.shape
            rows = self._stepper.rows(rows_of(batch), latents, text, work.shown is not None)
            self._fill(rows, batch)
            scatter(batch, *await self._stepper.step(work.card, work.shape, rows))
            return None
        except ExecutionError as error:
            if error.reason == KILLED and any(member is not batch[0][0] for member, _, _ in batch):
                return ExecutionError(error.message, retryable=True, reason=SUSPECT)
            return error
        except Exception as error:
            return _fault(error, work)

    def _fill(self, rows: StepRows, batch: list[Slice]) -> None:
        """Write the batch where the step takes it from; its text only where it is another batch,
        for that is most of a row, and stays as it is."""
        before, self._laid_out = self._laid_out, None
        if before is None or before[0] is not rows or before[1] != batch:
            gather_given(batch, rows)
        gather(batch, rows)
        self._laid_out = rows, batch


def _fault(error: Exception, work: Denoising) -> ExecutionError:
    """What a member is told of a fault of ours."""
    log.error("step failed", model=work.card.name, shape=work.shape, exc_info=error)
    failure = ExecutionError("the step failed in the agent", retryable=True)
    failure.__cause__ = error
    return failure


def _stays(member: Member) -> bool:
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


def _noisy(group: list[Member]) -> list[Member]:
    """Who is to have fresh noise added after this step."""
    return [member for member in group if member.work.plan.noise_scales[member.work.step]]


def _draw(members: list[Member]) -> None:
    """Each member's fresh noise. In a thread."""
    for member in members:
        work = member.work
        try:
            shape = work.latents.shape[1:]
            member.fresh = renewal(work.plan, work.step + 1, work.seeds, shape)
        except Exception as error:
            member.error = _fault(error, work)


def _pass_boundary(member: Member, seconds: float) -> None:
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
        if member.fresh is not None:
            work.latents += member.fresh
            member.fresh = None
        if work.kept:
            work.kept.restore(work.latents, work.plan, work.step)
        if work.step == work.plan.steps:
            member.done.set_result(None)
        elif work.preempted:
            member.done.set_exception(AttemptPreemptedError())
        work.on_step(work.made, seconds)
