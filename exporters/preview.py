"""Latents -> small pictures by a linear map, for progress: no decoder need run. Pure: numpy only.

A pixel of a preview is one place of the latents: a weight for each channel and colour, and a bias,
by least squares against decoded pictures averaged down to the latents' size. Colours and places
come out, edges do not. Learnt from finished latents and from the same with some noise added, which
keeps the map from leaning on differences too fine for a guess of early steps to have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.gate import EQUAL_PSNR, Array
from exporters.spec import ExportSpec

NOISE = 0.25  # added to the latents' own unit size


@dataclass(frozen=True)
class Preview:
    """The map: pixels in 0..1 = latents (.., C) @ factors (C, 3) + bias (3).

    Attributes:
        psnr: dB against pictures of prompts that were not fitted to.
        how: what was fitted to, in words.
    """

    factors: Sequence[Sequence[float]]
    bias: Sequence[float]
    psnr: float
    how: str

    @property
    def table(self) -> dict[str, Any]:
        """As the card has it."""
        return {"factors": self.factors, "bias": self.bias, "psnr": self.psnr, "how": self.how}


def fit(
    learnt: Sequence[tuple[Array, Array]], unseen: Sequence[tuple[Array, Array]], spec: ExportSpec
) -> Preview:
    """The map that is nearest for `learnt`, judged by `unseen`.

    Args:
        learnt, unseen: latents float32 (N, *spec.latent_dims) and what they are decoded to, uint8
            (N, H, W, 3) or (N, T, H, W, 3).
    """
    places, colours = _joined(learnt, spec)
    found, *_ = np.linalg.lstsq(places, colours, rcond=None)
    rounded = found.round(4) + 0.0  # no minus zero; a ten-thousandth of white is nothing to see
    places, colours = _joined(unseen, spec)
    error = float(((np.clip(places @ rounded, 0, 1) - colours) ** 2).mean())
    psnr = -10 * math.log10(error) if error else EQUAL_PSNR
    return Preview(
        rounded[:-1].tolist(),
        rounded[-1].tolist(),
        round(psnr, 1),
        f"least squares over {len(learnt)} draws; PSNR of others averaged down to the latents",
    )


def noised(latents: Array, seed: int) -> Array:
    """The latents with a little noise, the same for the same seed."""
    noise = np.random.default_rng(seed).standard_normal(latents.shape, np.float32)
    return latents + np.float32(NOISE) * noise


def _joined(pairs: Sequence[tuple[Array, Array]], spec: ExportSpec) -> tuple[Array, Array]:
    """Every place of every picture: float64 (places, C + 1), the last column ones; (places, 3)."""
    singles = [_single_frames(latents, spec) for latents, _ in pairs]
    places = np.concatenate([np.moveaxis(s, 1, -1).reshape(-1, s.shape[1]) for s in singles])
    colours = np.concatenate(
        [
            _averaged(images, s.shape[-2:], spec)
            for (_, images), s in zip(pairs, singles, strict=True)
        ]
    )
    return np.column_stack([places.astype(np.float64), np.ones(len(places))]), colours


def _single_frames(latents: Array, spec: ExportSpec) -> Array:
    """Latents of single frames (frames, C, h, w), wherever a clip's frames lie."""
    if spec.frames:  # (N, C, f, h, w)
        latents = np.moveaxis(latents, 2, 1)
        return latents.reshape(-1, *latents.shape[2:])
    if spec.output_frames:  # (N, T*C, h, w)
        channels = latents.shape[1] // spec.output_frames
        return latents.reshape(-1, channels, *latents.shape[2:])
    return latents


def _averaged(images: Array, size: tuple[int, ...], spec: ExportSpec) -> Array:
    """Pictures averaged down to the latents' size and frames: float64 (places, 3) in 0..1."""
    height, width = size
    *rest, tall, wide, _ = images.shape
    blocks = images.reshape(*rest, height, tall // height, width, wide // width, 3)
    small = blocks.mean(axis=(-4, -2)) / 255
    if spec.frames:
        # The first latent frame is one picture; each after it is an even share of the others.
        share = max(1, (spec.output_frames - 1) // max(1, spec.frames - 1))
        groups = np.split(small, range(1, spec.output_frames, share), axis=1)
        small = np.stack([group.mean(axis=1) for group in groups], axis=1)
    return small.reshape(-1, 3)
