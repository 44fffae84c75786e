"""The life of one attempt, told in the order it happens: inputs, noise, steps, pixels, files.

It is written once here, as if it were alone; the step loop batches it with others underneath.
Cancellation is heard between the phases and at every step boundary, and ends the attempt with an
outcome of its own; so is preemption, until the last step. Once the pictures are stored, success
stands. What was denoised is kept where it left off, for the next attempt (checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import structlog
from numpy.typing import NDArray

from agent.checkpoint import UPLOAD_SECONDS, Checkpoint, Checkpoints, print_of
from agent.denoising import Denoising
from agent.inputs import Inputs, encode
from agent.previews import Previews
from agent.results import Results
from agent.safety import withheld
from agent.sampler import Floats, Plan, plan
from agent.start import Given, fresh_noise
from agent.step_loop import StepLoop
from agent.text import PromptIds
from agent.triton import Triton
from agent.work import (
    AttemptCancelledError,
    AttemptPreemptedError,
    Failed,
    Outcome,
    Phase,
    Preempted,
    Progressed,
    Released,
    Succeeded,
    Told,
    Work,
)
from atelier.catalog import ModelCard
from atelier.errors import AtelierError, ExecutionError
from atelier.failpoints import failpoint
from atelier.generation import Provenance

log = structlog.get_logger()


class AttemptRun:
    """One attempt at a generation on a device."""

    def __init__(
        self,
        work: Work,
        card: ModelCard,
        *,
        tokenizer: PromptIds,
        triton: Triton,
        loop: StepLoop,
        inputs: Inputs,
        results: Results,
        checkpoints: Checkpoints,
        tell: Callable[[Told], None],
        leave: Callable[[AttemptRun], None],
    ) -> None:
        """`leave` is called when it needs its device no more, before anybody is told so."""
        self.work = work
        self.card = card
        self._tokenizer = tokenizer
        self._triton = triton
        self._loop = loop
        self._inputs = inputs
        self._results = results
        self._checkpoints = checkpoints
        self._tell = tell
        self._leave = leave
        self._previews = Previews(card, work.spec.preview_every, tell)
        self._denoising: Denoising | None = None
        self._cancelled = self._preempted = False
        self._unsaved_seconds = 0.0  # of denoising, since its checkpoint was stored
        self._saving: Future[None] | None = None

    def cancel(self) -> None:
        """Stop at the next boundary; `run` then ends with a cancelled outcome."""
        self._cancelled = True
        if self._denoising:
            self._denoising.cancel()

    def preempt(self) -> None:
        """Give the device back at the next step boundary; `run` then ends as preempted. What is
        past its last step runs to its end."""
        self._preempted = True
        if self._denoising:
            self._denoising.preempt()

    async def run(self) -> Outcome:
        """Make the pictures. Whatever happens is in the outcome; nothing is raised."""
        outcome = await self._outcome()
        again = isinstance(outcome, Preempted)
        if isinstance(outcome, Failed):
            again = outcome.retryable
        if again and (checkpoint := self._checkpoint()):
            await self._checkpoints.save_and_wait(self.work, checkpoint)
        elif not again and not self._cancelled:
            self._checkpoints.forget(self.work)
        return outcome

    async def _outcome(self) -> Outcome:
        attempt = self.work.attempt
        try:
            return await self._live()
        except AttemptPreemptedError:
            return Preempted(attempt, self._denoising.made if self._denoising else 0)
        except AttemptCancelledError:
            gone = AtelierError("the attempt was cancelled", reason="CANCELLED")
            gone.code = "CANCELLED"
            return Failed(attempt, gone, retryable=False, cancelled=True)
        except ExecutionError as error:
            return Failed(attempt, error, retryable=error.retryable)
        except Exception:
            log.exception("attempt failed", **self.work.whose)
            broken = ExecutionError("the agent failed at this attempt", retryable=True)
            return Failed(attempt, broken, retryable=True)
        finally:
            self._leave(self)

    async def _live(self) -> Succeeded:
        spec = self.work.spec
        embeddings = await self._encode_text()
        brought = await self._inputs.fetch(self.work)
        given = await encode(self._triton, self.card, spec, brought)
        if brought and brought.mask is None:
            brought = None  # it is in the latents
        self._go_on(Phase.DENOISING)
        latents = await self._denoise(embeddings, given)
        self._go_on(Phase.DECODING, step=spec.run_steps)
        images = await self._inputs.paste(brought, await self._decode(latents))
        unsafe = await withheld(self._triton, self.card, images)
        self._leave(self)
        self._tell(Released(self.work.attempt))
        self._go_on(Phase.UPLOADING, step=spec.run_steps)
        encoding: list[float] = []  # seconds of each
        results = await self._results.publish(
            self.work,
            self.card,
            images,
            lambda: self._cancelled,
            withheld=unsafe,
            encoded=encoding.append,
        )
        failpoint("upload_done_before_complete")
        provenance = Provenance(
            self.card.version, self.card.engine, spec.sampler, self.work.attempt.device_id
        )
        return Succeeded(self.work.attempt, results, provenance, sum(encoding))

    async def _encode_text(self) -> Floats:
        """float32 (2, tokens, width), negative first."""
        self._go_on(Phase.ENCODING_TEXT)
        spec = self.work.spec
        ids = self._tokenizer.encode(spec.negative_prompt, spec.prompt)
        return await self._triton.encode_text(self.card, ids)

    async def _denoise(self, embeddings: Floats, given: Given) -> Floats:
        """float32 (count, C, h, w) without noise."""
        spec = self.work.spec
        steps = self._plan()
        seeds = tuple(spec.seed_of(i) for i in range(spec.count))
        fresh = fresh_noise(seeds, self.card.latents.shape(spec.width, spec.height))
        self._denoising = Denoising(
            card=self.card,
            shape=spec.shape,
            plan=steps,
            guidance=spec.guidance,
            text_embeddings=embeddings,
            latents=given.begin(steps, fresh),
            denoised_prev=np.zeros_like(fresh),
            seeds=seeds,
            granted=self.work.rows_at_once,
            alone=self.work.alone,
            step=steps.first,
            on_step=self._on_step,
            kept=given.kept(fresh),
            shown=given.shown,
        )
        if found := await self._checkpoints.find(self.work, self.card, fresh.shape):
            log.info("goes on", step=found.step, steps=spec.steps)
            # Copies: the loop writes into what it is given.
            self._denoising.latents = found.latents.copy()
            self._denoising.denoised_prev = found.denoised_prev.copy()
            self._denoising.step = found.step
        await self._loop.denoise(self._denoising)
        return self._denoising.latents

    def _plan(self) -> Plan:
        spec = self.work.spec
        try:
            return plan(
                self.card.schedule, spec.sampler, spec.steps, first=spec.steps - spec.run_steps
            )
        except ValueError as error:
            raise ExecutionError(
                f"this model cannot be sampled so: {error}", retryable=False, reason="INVALID_SPEC"
            ) from error

    async def _decode(self, latents: Floats) -> NDArray[np.uint8]:
        """uint8 (count, H, W, 3), or (1, T, H, W, 3) of a video."""
        spec = self.work.spec
        images = await self._triton.decode(self.card, latents)
        pixels = self.card.latents.pixel_shape(spec.width, spec.height)
        if images.shape != (spec.count, *pixels) or images.dtype != np.uint8:
            raise ExecutionError(
                "the decoder gave pictures of another size than was asked for",
                retryable=False,
                reason="INVALID_OUTPUT",
            )
        return images

    def _go_on(self, phase: Phase, step: int = 0) -> None:
        """Enter a phase, unless the attempt was cancelled meanwhile."""
        if self._cancelled:
            raise AttemptCancelledError
        if self._preempted and phase in (Phase.ENCODING_TEXT, Phase.DENOISING):
            raise AttemptPreemptedError
        self._tell(Progressed(self.work.attempt, phase, step, self.work.spec.run_steps, 0.0))

    def _on_step(self, made: int, seconds: float) -> None:
        failpoint("step_done")
        total = self.work.spec.run_steps
        told = Progressed(self.work.attempt, Phase.DENOISING, made, total, seconds)
        self._tell(told)
        if self._denoising:
            self._previews.after(told, self._denoising.denoised_prev[0])
        self._unsaved_seconds += seconds
        waits = self._saving is not None and not self._saving.done()
        if self._unsaved_seconds >= UPLOAD_SECONDS and not waits:
            if checkpoint := self._checkpoint():
                self._saving = self._checkpoints.save(self.work, checkpoint)
            self._unsaved_seconds = 0.0

    def _checkpoint(self) -> Checkpoint | None:
        """Where it is, if it has come anywhere."""
        now = self._denoising
        if now is None or not now.plan.first < now.step < now.plan.steps:
            return None
        print_ = print_of(self.work, self.card)
        return Checkpoint(print_, now.step, now.latents.copy(), now.denoised_prev.copy())
