"""Teaches a denoiser over frozen latents and a frozen text encoder; goes on if it was stopped.

What made tiny-image learn in about 60,000 samples: small batches (16 is about three times as
efficient a sample as 64), more noise than a uniform draw (t = 1000 u^0.7: the plan of a picture is
decided early), half of the loss on the figure however small it is, and an average of the weights.
One caption in ten is empty, so that guidance has something to lead away from.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from exporters.tiny.progress import Progress, Report
from exporters.tiny.scenes import Coverage
from exporters.tiny.train_text_encoder import tokenize

BATCH = 16
LEARNING_RATE = 1.3e-3
EMPTY_CAPTIONS = 0.1
AVERAGE_DECAY = 0.998
MAX_CLEAR_WEIGHT = 5.0  # of a sample with little noise, where x0 is what is predicted
SAVE_EVERY = 300


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is to be learned: N latents, where to look in each, and what it is called.

    Attributes:
        latents: float32 (N, C, h, w), scaled to a spread of about 1.
        weights: of lesson i, as (C or 1, h, w) with mean 1.
        caption: of lesson i, in one of many wordings.
    """

    latents: Tensor
    weights: Callable[[int], Tensor]
    caption: Callable[[int, np.random.Generator], str]


@dataclass(slots=True)
class State:
    """All that a stopped run needs to go on."""

    unet: UNet2DConditionModel
    average: UNet2DConditionModel
    optimiser: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.OneCycleLR
    step: int = 0
    cpu_seconds: float = 0.0

    def save(self, path: Path) -> None:
        parts = ("unet", "average", "optimiser", "schedule")
        saved = {name: getattr(self, name).state_dict() for name in parts}
        torch.save(saved | {"step": self.step, "cpu_seconds": self.cpu_seconds}, path)

    def load(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        for name in ("unet", "average", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(saved[name])
        self.step, self.cpu_seconds = saved["step"], saved["cpu_seconds"]


def open_state(unet: UNet2DConditionModel, resume: Path, steps: int, report: Report) -> State:
    """A fresh state around `unet`, or the one of a stopped run in the file `resume`."""
    optimiser = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.04
    )
    state = State(unet, copy.deepcopy(unet).requires_grad_(False), optimiser, schedule)
    if resume.exists():
        state.load(resume)
        report(f"unet goes on from step {state.step}")
    return state


def teach(
    state: State,
    lessons: Lessons,
    tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel,
    scheduler: DDIMScheduler,
    resume: Path,
    progress: Progress,
    seed: int,
) -> UNet2DConditionModel:
    """Take the steps that are left, and return the averaged denoiser.

    `progress` is as old as the stage, so that its CPU seconds count the making of the lessons.
    """
    rng = np.random.default_rng((seed, state.step))
    torch.manual_seed(seed + state.step)
    spent = state.cpu_seconds
    for number in range(state.step + 1, progress.steps + 1):
        chosen = rng.integers(len(lessons.latents), size=BATCH)
        captions = [lessons.caption(i, rng) for i in chosen]
        captions = ["" if rng.random() < EMPTY_CAPTIONS else caption for caption in captions]
        with torch.no_grad():
            text = encoder(tokenize(tokenizer, captions)).last_hidden_state
        weights = torch.stack([lessons.weights(i) for i in chosen])
        latents = lessons.latents[torch.from_numpy(chosen)]
        loss = _loss(state.unet, scheduler, latents, text, weights)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.unet.parameters(), 1.0)
        state.optimiser.step()
        state.schedule.step()
        _follow(state.average, state.unet, min(AVERAGE_DECAY, number / (number + 9)))
        progress.step(number, loss.item())
        state.step, state.cpu_seconds = number, spent + progress.cpu_seconds
        if number % SAVE_EVERY == 0:
            state.save(resume)
    return state.average


def figure_weights(cover: Coverage) -> Tensor:
    """Half of the weight everywhere, half on the figure and its rim: (1, h, w) of mean 1."""
    figure = functional.max_pool2d(torch.from_numpy(cover)[None], 3, stride=1, padding=1)
    return 0.5 + 0.5 * figure / figure.mean()


def _loss(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    latents: Tensor,
    text: Tensor,
    weights: Tensor,
) -> Tensor:
    """Weighted error of what the denoiser predicts, at one random time a sample.

    An error of x0 counts as the error of velocity that it is: 1 / (1 - alpha) as much.
    """
    steps = scheduler.config.num_train_timesteps
    times = (steps * torch.rand(len(latents)) ** 0.7).long().clamp(max=steps - 1)
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, times)
    predicted = unet(noisy, times, encoder_hidden_states=text).sample
    if scheduler.config.prediction_type == "sample":
        clear = (1 / (1 - scheduler.alphas_cumprod[times])).clamp(max=MAX_CLEAR_WEIGHT)
        return (clear[:, None, None, None] * weights * (predicted - latents) ** 2).mean()
    velocity = scheduler.get_velocity(latents, noise, times)
    return (weights * (predicted - velocity) ** 2).mean()


@torch.no_grad()
def _follow(average: UNet2DConditionModel, unet: UNet2DConditionModel, decay: float) -> None:
    for slow, fast in zip(average.parameters(), unet.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
