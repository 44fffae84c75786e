"""Is the export the checkpoint? Each component against torch, and whole pictures against diffusers.

The reference is the checkpoint as it was, in float32, before anything was rounded; for the pictures
it is diffusers' own pipeline with its own tokenizer and scheduler: nothing of ours is on that side.
An export that misses a threshold of its family is not published.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from exporters.errors import ParityError
from exporters.gate import Array, Figure, Gate, Threshold, compare
from exporters.int8 import Session
from exporters.measure import open_session
from exporters.spec import COEFFICIENTS, FREE, Component, ExportSpec, Tensor

PROMPTS = (
    "a red circle on a blue background",
    "a small yellow square at the left on a black background",
)
ROW_COUNTS = (1, 3)  # components are compared at each: batch axes must be free
SEED = 7


@dataclass(frozen=True)
class Reference:
    """What torch answers, for each of ROW_COUNTS: kept while the module is changed."""

    feeds: tuple[Mapping[str, Array], ...]
    answers: tuple[tuple[Array, ...], ...]


def feeds(
    component: Component, size: tuple[int, int], downscale: int, vocabulary: int
) -> Iterator[dict[str, Array]]:
    """Inputs of a component: noise of unit size, every row at another timestep and guidance.

    Args:
        size: height and width of the latents.
        vocabulary: ids are below it.
    """
    for rows in ROW_COUNTS:
        rng = np.random.default_rng(SEED)
        feed: dict[str, Array] = {}
        for tensor in component.inputs:
            scale = downscale if tensor.dtype == "UINT8" else 1
            sides = iter(side * scale for side in size)
            dims = (rows, *(next(sides) if n == FREE else n for n in tensor.dims))
            if tensor.dtype == "INT64":
                feed[tensor.name] = rng.integers(0, vocabulary, dims, np.int64)
            elif tensor.dtype == "UINT8":
                feed[tensor.name] = rng.integers(0, 256, dims, np.uint8)
            else:
                feed[tensor.name] = rng.standard_normal(dims, np.float32)
        if "coefficients" in feed:
            feed["timestep"] = np.linspace(999, 0, rows, dtype=np.float32)[:, None]
            feed["guidance"] = np.linspace(1, 3, rows, dtype=np.float32)[:, None]
            feed["coefficients"] = rng.uniform(-1, 1, (rows, COEFFICIENTS)).astype(np.float32)
            if "mask" in feed:
                feed["mask"] = (feed["mask"] > 0).astype(np.float32)
        yield feed


def ask_torch(
    module: nn.Module, component: Component, given: Sequence[Mapping[str, Array]]
) -> Reference:
    """What a component's module answers, as it is now."""
    answers = []
    for feed in given:
        with torch.inference_mode():
            out = module(*(torch.from_numpy(feed[tensor.name]) for tensor in component.inputs))
        answers.append(tuple(t.numpy() for t in (out if isinstance(out, tuple) else (out,))))
    return Reference(tuple(given), tuple(answers))


def compare_component(
    component: Component, path: Path, reference: Reference, gate: Gate
) -> list[Figure]:
    """One figure for each output, the worst over ROW_COUNTS."""
    session = open_session(path)
    worst: dict[str, Figure] = {}
    for feed, answers in zip(reference.feeds, reference.answers, strict=True):
        got = session.run(None, dict(feed))
        for tensor, mine, theirs in zip(component.outputs, got, answers, strict=True):
            _require_form(component, tensor, mine)
            figure = _compare(f"{component.name}.{tensor.name}", mine, theirs, gate)
            known = worst.get(figure.name)
            if known is None or not figure.max_abs_diff <= known.max_abs_diff:
                worst[figure.name] = figure
    return list(worst.values())


def _require_form(component: Component, tensor: Tensor, got: Array) -> None:
    """The graph may equal torch's and still not be what the card will promise."""
    fixed = zip(got.shape[1:], tensor.dims, strict=False)
    if got.ndim != len(tensor.dims) + 1 or any(n not in (m, FREE) for m, n in fixed):
        raise ParityError(
            f"{component.name}.{tensor.name}: rows of {got.shape[1:]} where {tensor.dims} was said"
        )


def _compare(name: str, got: Array, expected: Array, gate: Gate) -> Figure:
    """Floats are judged relative to their size where that is above 1: coefficients are random."""
    if expected.dtype == np.uint8:
        return compare(name, got, expected, gate.pixels)
    size = max(1.0, float(np.abs(expected).max()))
    bound = Threshold(gate.floats.min_cosine, gate.floats.max_abs_diff * size)
    return compare(name, got, expected, bound)


class Tokenizers:
    """Prompts -> ids as the agent makes them, from the files that were written for it."""

    def __init__(self, folder: Path, files: Sequence[str], lengths: Sequence[int]) -> None:
        self._tokenizers = []
        for file, length in zip(files, lengths, strict=True):
            made = Tokenizer.from_file(str(folder / file))
            made.enable_truncation(length)
            self._tokenizers.append((made, length))
        self._pads = [0] * len(files)

    def pad_with(self, *ids: int) -> None:
        """What each pads with."""
        self._pads = list(ids)

    def encode(self, prompts: Sequence[str]) -> Array:
        """int64 (len(prompts), ids)."""
        parts = []
        for (tokenizer, length), pad in zip(self._tokenizers, self._pads, strict=True):
            ids = np.full((len(prompts), length), pad, np.int64)
            for row, prompt in zip(ids, prompts, strict=True):
                found = tokenizer.encode(prompt).ids
                row[: len(found)] = found
            parts.append(ids)
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Step:
    """One step of a scheduler as the graph takes it, and the noise that it adds."""

    timestep: float
    coefficients: tuple[float, ...]
    noise_scale: float


def table(scheduler: Any, steps: int) -> Iterator[Step]:
    """The steps of one of diffusers' schedulers, found by asking it.

    A step is linear in the latents x and in the model's answer m: x' = A*x + B*m + noise, and so is
    its guess of the picture, D = p*x + q*m, where it tells it. A question with x alone, one with m
    alone and one with neither give them. That is kept apart from the agent's samplers on purpose:
    two derivations that agree are worth more than one.
    """
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        scale = float(scheduler.scale_model_input(_one(1.0), timestep)) if _scales(scheduler) else 1
        noise, _ = _asked(scheduler, timestep, 0.0, 0.0)
        of_x, p = _asked(scheduler, timestep, 1.0, 0.0)
        of_m, q = _asked(scheduler, timestep, 0.0, 1.0)
        b = (of_m - noise) / q
        drawn = float(torch.randn(1, generator=_generator()))
        yield Step(float(timestep), (scale, p, q, of_x - noise - b * p, b, 0.0), noise / drawn)
        scheduler.step(_one(0.0), timestep, _one(0.0), return_dict=False)


def _asked(scheduler: Any, timestep: Any, x: float, m: float) -> tuple[float, float]:
    """The next latents and D; where a scheduler keeps its guess to itself, m is taken for D."""
    fresh = copy.deepcopy(scheduler)
    more = {"generator": _generator()} if type(fresh).__name__ in _DRAWING else {}
    out = fresh.step(_one(m), timestep, _one(x), return_dict=True, **more)
    guess = getattr(out, "pred_original_sample", getattr(out, "denoised", None))
    return float(out.prev_sample), m if guess is None else float(guess)


_DRAWING = ("LCMScheduler", "EulerAncestralDiscreteScheduler")


def _scales(scheduler: Any) -> bool:
    return hasattr(scheduler, "scale_model_input")


def _one(value: float) -> torch.Tensor:
    return torch.full((1,), value)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def draw(
    sessions: Mapping[str, Session],
    spec: ExportSpec,
    ids: tuple[Array, Array],
    steps: Sequence[Step],
    latents: Array,
    guidance: float,
    edit: tuple[Array, Array] | None = None,
) -> Array:
    """The whole chain with the exported components: uint8 (N, ..., H, W, 3).

    Args:
        ids: of the negative prompts and of the prompts.
        latents: the first noise, already scaled.
        edit: mask and known of a model that takes them; None of any other.
    """
    rows = len(latents)
    encoder = sessions["text_encoder"]
    text = np.stack([encoder.run(None, {"input_ids": each})[0] for each in ids], axis=1)
    denoised = np.zeros_like(latents)
    generator = _generator()
    for step in steps:
        feed = {
            "latents": latents,
            "denoised_prev": denoised,
            "timestep": np.full((rows, 1), step.timestep, np.float32),
            "text_embeddings": text,
            "guidance": np.full((rows, 1), guidance, np.float32),
            "coefficients": np.tile(np.array(step.coefficients, np.float32), (rows, 1)),
        }
        if edit:
            feed["mask"], feed["known"] = edit
        latents, denoised = sessions["denoiser"].run(None, feed)
        if step.noise_scale:
            drawn = torch.randn(latents.shape, generator=generator).numpy()
            latents = latents + np.float32(step.noise_scale) * drawn
    images: Array = sessions["vae_decoder"].run(None, {"latents": latents})[0]
    return images
