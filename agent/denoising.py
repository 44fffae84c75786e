"""A generation between noise and latents: what the step loop advances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.sampler import Floats, Plan
from agent.start import Kept, Shown
from atelier.catalog import ModelCard


@dataclass(eq=False)
class Denoising:
    """A generation's way from noise to latents, n pictures at once.

    text_embeddings: float32 (2, tokens, width), negative first, shared by the pictures.
    latents, denoised_prev: float32 (n, C, h, w), after `step` steps.
    seeds: of the n pictures, for samplers that add noise on the way.
    granted: of the n, how many may be in one call; 0: as the card says.
    alone: no call has rows of others beside its own.
    on_step: called at each step boundary with the steps made and the seconds of the last one.
    kept: what is put back after each step; None: nothing.
    shown: what the denoiser sees beside the latents, where it was trained so.
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
    alone: bool = False
    step: int = 0
    on_step: Callable[[int, float], None] = lambda _step, _seconds: None
    kept: Kept | None = None
    shown: Shown | None = None
    cancelled: bool = field(default=False, init=False)
    preempted: bool = field(default=False, init=False)

    @property
    def rows(self) -> int:
        return len(self.latents)

    @property
    def made(self) -> int:
        """Steps done, but for those that a picture to start from saved."""
        return self.step - self.plan.first

    def cancel(self) -> None:
        """Leave at the next step boundary."""
        self.cancelled = True

    def preempt(self) -> None:
        """Leave at the next step boundary, with that step done; not where it is the last."""
        self.preempted = True
