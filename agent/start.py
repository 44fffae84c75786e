"""What latents begin with, and what of them is kept while they are denoised. Pure: numpy only.

A picture to start from (image to image) is noised to the level of the first step that is made, and
what lies outside of a mask (inpainting) is put back after each step, noised to the level that the
step has come to; both with the noise that the picture would have begun with (SDEdit,
arXiv:2108.01073; RePaint's equation 8, arXiv:2201.09865). The levels are the plan's, so that this
is diffusers' `add_noise` for every sampler, in coordinates of unit variance.

The agent blends, and not the exported graph: an ancestral sampler's and LCM's fresh noise is added
after the graph, and what is kept must have none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.sampler import Floats, Plan, noise

NEW = 0.5  # of a mask's pixel: from here on something new is wanted, as diffusers has it


@dataclass(frozen=True, eq=False)
class Kept:
    """What is put back after each step.

    picture: float32 (C, h, w), latents of the picture, without noise.
    fresh: float32 (n, C, h, w), what the n pictures' latents began with.
    new: bool, (C, h, w) or what broadcasts to it: where something new is wanted.
    """

    picture: Floats
    fresh: Floats
    new: NDArray[np.bool_]

    def restore(self, latents: Floats, plan: Plan, step: int) -> None:
        """Put it back, in place, into latents float32 (n, C, h, w) after `step` steps."""
        alpha, sigma = plan.levels[step]
        kept = alpha * self.picture + sigma * self.fresh
        np.copyto(latents, kept, where=~self.new)


@dataclass(frozen=True, eq=False)
class Shown:
    """What a denoiser that was trained for inpainting sees beside the latents, at each step.

    mask: float32 (1, h, w), 1 where something new is wanted.
    known: float32 (C, h, w), latents of the picture with that part grey.
    """

    mask: Floats
    known: Floats


@dataclass(frozen=True, eq=False)
class Given:
    """What a generation was given beside its text, as latents.

    picture: float32 (C, h, w), to start from; None: nothing.
    new: bool, as in Kept; None: all of it.
    shown: to a denoiser that was trained for inpainting; None: to any other.
    """

    picture: Floats | None = None
    new: NDArray[np.bool_] | None = None
    shown: Shown | None = None

    def begin(self, plan: Plan, fresh: Floats) -> Floats:
        """Latents before step `plan.first`, from noise: both float32 (n, C, h, w).

        Where something is kept, the whole way begins with noise alone, as diffusers' does, though
        its first level may hold some of a picture.
        """
        if self.picture is None or (self.new is not None and plan.first == 0):
            return fresh * np.float32(plan.initial_scale)
        alpha, sigma = plan.levels[plan.first]
        begun: Floats = alpha * self.picture + sigma * fresh
        return begun

    def kept(self, fresh: Floats) -> Kept | None:
        """What is put back; a denoiser that sees the mask keeps what is outside by itself."""
        if self.picture is None or self.new is None or self.shown:
            return None
        return Kept(self.picture, fresh, self.new)


def fresh_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Floats:
    """What the latents of pictures of these seeds begin with: float32 (n, *shape)."""
    return np.stack([noise(seed, 0, shape) for seed in seeds])


def made_anew(mask: Floats, downscale: int) -> NDArray[np.bool_]:
    """The latents that are made anew where pixels are: (H, W) of 0 to 1 -> bool (1, h, w).

    Those that have any such pixel: one that was kept would go on showing what was to be replaced,
    and what becomes of its other pixels is not seen, since the picture's own are put back.
    """
    height, width = (side // downscale for side in mask.shape)
    squares = (mask >= NEW).reshape(1, height, downscale, width, downscale)
    new: NDArray[np.bool_] = squares.any(axis=(2, 4))
    return new


def shown_mask(mask: Floats, downscale: int) -> Floats:
    """What a denoiser sees of a mask: (H, W) of 0 to 1 -> float32 (1, h, w), 0 or 1. One pixel
    stands for each latent, as in training."""
    return (mask[np.newaxis, ::downscale, ::downscale] >= NEW).astype(np.float32)
