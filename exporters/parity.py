"""Is the export the checkpoint? Each component against torch, and whole pictures against diffusers.

The reference is the checkpoint as it was, before its weights were rounded to halves, and for the
pictures diffusers' own pipeline with its own tokenizer and DDIM scheduler: nothing of ours is on
that side. An export that misses a threshold is not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from exporters.checkpoint import Checkpoint
from exporters.measure import open_session
from exporters.spec import COEFFICIENTS, MODEL_FILE, MODEL_VERSION

Array = NDArray[Any]

PROMPTS = ("a red circle on a blue background", "a small yellow square at the left, on black")
STEPS, GUIDANCE = 20, 1.5
ROW_COUNTS = (1, 5)  # components are compared at each: batch axes must be free
SEED = 7


@dataclass(frozen=True)
class Threshold:
    """What counts as equal."""

    min_cosine: float
    max_abs_diff: float


# Half-rounded weights of Stable Diffusion 1.5 gave 1e-2 and a cosine of 1.000000; a checkpoint that
# was saved in halves gives about 1e-5. Pixels are in levels of 0 to 255.
FLOATS = Threshold(min_cosine=0.9999, max_abs_diff=2e-2)
PIXELS = Threshold(min_cosine=0.9999, max_abs_diff=2)
PICTURES = Threshold(min_cosine=0.999, max_abs_diff=16)  # 20 steps add up; at edges first


@dataclass(frozen=True)
class Figure:
    """One comparison."""

    name: str
    cosine: float
    max_abs_diff: float
    threshold: Threshold

    @property
    def holds(self) -> bool:
        return (
            self.cosine >= self.threshold.min_cosine
            and self.max_abs_diff <= self.threshold.max_abs_diff
        )


class ParityError(Exception):
    """The export is not the checkpoint; says which comparison failed and by how much."""


def compare(name: str, got: Array, expected: Array, threshold: Threshold) -> Figure:
    """Compare two arrays of one shape; anything not finite fails."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise ParityError(
            f"{name}: {got.dtype}{got.shape} where torch has {expected.dtype}{expected.shape}"
        )
    a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(np.array_equal(a, b))
    return Figure(name, cosine, float(np.abs(a - b).max()), threshold)


def require(figures: list[Figure]) -> None:
    """Raises: ParityError, naming every comparison that does not hold."""
    bad = [
        f"{f.name}: cosine {f.cosine:.6f} (at least {f.threshold.min_cosine}),"
        f" max abs diff {f.max_abs_diff:.3g} (at most {f.threshold.max_abs_diff})"
        for f in figures
        if not f.holds
    ]
    if bad:
        raise ParityError("; ".join(bad))


class Parity:
    """Compares a folder of exported components with the checkpoint they came from."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._graphs = checkpoint.graphs()
        self._sessions = [
            open_session(folder / component.name / MODEL_VERSION / MODEL_FILE)
            for component in self._spec.components
        ]
        self._tokenizer = Tokenizer.from_file(str(folder / self._spec.tokenizer_file))
        self._tokenizer.enable_truncation(self._spec.tokens)
        tokenizer = checkpoint.pipeline.tokenizer
        self._tokenizer.enable_padding(
            length=self._spec.tokens, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token
        )

    def components(self) -> list[Figure]:
        """One figure for each output, the worst over ROW_COUNTS."""
        worst: dict[str, Figure] = {}
        for rows in ROW_COUNTS:
            for figure in self._components(rows):
                known = worst.get(figure.name)
                if known is None or figure.max_abs_diff > known.max_abs_diff:
                    worst[figure.name] = figure
        return list(worst.values())

    def _components(self, rows: int) -> list[Figure]:
        feeds = self._feeds(rows)
        figures = []
        for component, graph, session, feed in zip(
            self._spec.components, self._graphs, self._sessions, feeds, strict=True
        ):
            with torch.inference_mode():
                expected = graph(*(torch.from_numpy(feed[t.name]) for t in component.inputs))
            expected = expected if isinstance(expected, tuple) else (expected,)
            for tensor, got, reference in zip(
                component.outputs, _run(session, feed), expected, strict=True
            ):
                threshold = PIXELS if tensor.dtype == "UINT8" else FLOATS
                name = f"{component.name}.{tensor.name}"
                figures.append(compare(name, got, reference.numpy(), threshold))
        return figures

    def _feeds(self, rows: int) -> list[dict[str, Array]]:
        """Inputs of each component: true embeddings, noise, every row at another timestep."""
        rng = np.random.default_rng(SEED)
        ids = self._ids([PROMPTS[i % len(PROMPTS)] for i in range(rows)])
        embeddings = _run(self._sessions[0], {"input_ids": ids})[0]
        empty = _run(self._sessions[0], {"input_ids": self._ids([""] * rows)})[0]
        side = self._checkpoint.native_pixels // self._spec.downscale
        shape = (rows, self._spec.channels, side, side)
        last = self._checkpoint.schedule["num_train_timesteps"] - 1
        return [
            {"input_ids": ids},
            {
                "latents": rng.standard_normal(shape, np.float32),
                "denoised_prev": rng.standard_normal(shape, np.float32),
                "timestep": np.linspace(last, 0, rows, dtype=np.float32)[:, None],
                "text_embeddings": np.stack([empty, embeddings], axis=1),
                "guidance": np.linspace(1, 3, rows, dtype=np.float32)[:, None],
                "coefficients": rng.uniform(-1, 1, (rows, COEFFICIENTS)).astype(np.float32),
            },
            {"latents": rng.standard_normal(shape, np.float32)},
        ]

    def pictures(self) -> Figure:
        """The whole chain: prompts to pictures from the same noise, against diffusers."""
        side = self._checkpoint.native_pixels // self._spec.downscale
        shape = (len(PROMPTS), self._spec.channels, side, side)
        noise = np.random.default_rng(SEED).standard_normal(shape, np.float32)
        pipeline = self._checkpoint.pipeline
        pipeline.scheduler = reference_ddim(self._checkpoint.schedule)
        expected = pipeline(
            list(PROMPTS),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            latents=torch.from_numpy(noise),
            output_type="np",
        ).images
        levels = (expected * 255).round().astype(np.uint8)
        return compare("pictures", self._draw(noise), levels, PICTURES)

    def _draw(self, latents: Array) -> Array:
        text_encoder, denoiser, vae_decoder = self._sessions
        rows = len(PROMPTS)
        positive = _run(text_encoder, {"input_ids": self._ids(list(PROMPTS))})[0]
        negative = _run(text_encoder, {"input_ids": self._ids([""] * rows)})[0]
        denoised = np.zeros_like(latents)
        for timestep, coefficients in ddim(self._checkpoint.schedule, STEPS):
            feed = {
                "latents": latents,
                "denoised_prev": denoised,
                "timestep": np.full((rows, 1), timestep, np.float32),
                "text_embeddings": np.stack([negative, positive], axis=1),
                "guidance": np.full((rows, 1), GUIDANCE, np.float32),
                "coefficients": np.tile(np.array(coefficients, np.float32), (rows, 1)),
            }
            latents, denoised = _run(denoiser, feed)
        return _run(vae_decoder, {"latents": latents})[0]

    def _ids(self, prompts: list[str]) -> Array:
        return np.array([self._tokenizer.encode(p).ids for p in prompts], np.int64)


def reference_ddim(schedule: Mapping[str, Any]) -> diffusers.DDIMScheduler:
    """Diffusers' own. It would clip where another scheduler's config does not say that it does not;
    a config that says that it does is refused (card.noise_schedule)."""
    return diffusers.DDIMScheduler.from_config(schedule, clip_sample=False)


def ddim(
    schedule: Mapping[str, Any], steps: int
) -> list[tuple[float, tuple[float, float, float, float, float, float]]]:
    """Timestep and coefficients of each DDIM step (Song et al. 2021, equation 12, eta = 0).

    Only for this check, and kept apart from the agent's sampler on purpose: two derivations that
    agree with diffusers are worth more than one.
    """
    scheduler = reference_ddim(schedule)
    scheduler.set_timesteps(steps)
    found = []
    for t in scheduler.timesteps.tolist():
        before = t - scheduler.config.num_train_timesteps // steps
        alpha = float(scheduler.alphas_cumprod[t])
        alpha_next = float(
            scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        )
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        if scheduler.config.prediction_type == "v_prediction":
            p, q = signal, -noise
        else:  # epsilon
            p, q = 1 / signal, -noise / signal
        # next = signal' * D + noise' * eps, with eps = (x - signal * D) / noise
        a = (1 - alpha_next) ** 0.5 / noise
        found.append((float(t), (1.0, p, q, a, alpha_next**0.5 - a * signal, 0.0)))
    return found


def _run(session: onnxruntime.InferenceSession, feed: dict[str, Array]) -> list[Array]:
    return session.run(None, feed)
