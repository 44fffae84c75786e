"""When two arrays count as equal. Pure: numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ParityError

Array = NDArray[Any]


@dataclass(frozen=True)
class Threshold:
    """What counts as equal for a component's output."""

    min_cosine: float
    max_abs_diff: float


@dataclass(frozen=True)
class Gate:
    """What an export must keep to.

    Attributes:
        floats: of embeddings and latents, whose size is about 1.
        pixels: of pictures decoded from the same latents, in levels of 0 to 255.
        min_psnr: of whole pictures from the same noise, in dB.
    """

    floats: Threshold
    pixels: Threshold
    min_psnr: float


@dataclass(frozen=True)
class Int8Gate:
    """What an INT8 model must keep to: components against their source, pictures as in Gate.

    Of a component the worst row of the worst feed counts.

    Attributes:
        max_relative_l2: |quantized - source| / |source| of outputs in floats. 0.1 is a cosine of
            0.995; tiny-image's denoiser has 0.05.
        min_psnr_db: of outputs in bytes: pictures decoded from the same latents.
        min_psnr: of whole pictures from the same noise, in dB.
    """

    max_relative_l2: float = 0.1
    min_psnr_db: float = 30.0
    min_psnr: float = 20.0


INT8_GATE = Int8Gate()


@dataclass(frozen=True)
class Figure:
    """One comparison of a component's output."""

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

    def __str__(self) -> str:
        return (
            f"{self.name}: cosine {self.cosine:.6f} (at least {self.threshold.min_cosine}),"
            f" max abs diff {self.max_abs_diff:.3g} (at most {self.threshold.max_abs_diff:g})"
        )


@dataclass(frozen=True)
class Pictures:
    """The comparison of whole pictures."""

    psnr: float  # dB; 100 where they are equal
    max_abs_diff: float
    min_psnr: float
    how: str

    @property
    def holds(self) -> bool:
        return self.psnr >= self.min_psnr

    def __str__(self) -> str:
        return f"pictures: PSNR {self.psnr:.1f} dB (at least {self.min_psnr:g}), {self.how}"


EQUAL_PSNR = 100.0  # dB that stand for equal, since the true figure has no number


def compare(name: str, got: Array, expected: Array, threshold: Threshold) -> Figure:
    """Compare two arrays of one shape; anything not finite fails.

    Raises:
        ParityError: they differ in shape or type.
    """
    _same_form(name, got, expected)
    a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(np.array_equal(a, b))
    return Figure(name, cosine, float(np.abs(a - b).max()), threshold)


def compare_pictures(got: Array, expected: Array, min_psnr: float, how: str) -> Pictures:
    """Compare uint8 pictures.

    Raises:
        ParityError: they differ in shape or type.
    """
    _same_form("pictures", got, expected)
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    mean_square = float((difference**2).mean())
    psnr = 10 * math.log10(255**2 / mean_square) if mean_square else EQUAL_PSNR
    return Pictures(min(psnr, EQUAL_PSNR), float(difference.max()), min_psnr, how)


def require(figures: Sequence[Figure | Pictures]) -> None:
    """Raises: ParityError, naming every comparison that does not hold."""
    if bad := [str(figure) for figure in figures if not figure.holds]:
        raise ParityError("not equal to the checkpoint: " + "; ".join(bad))


def _same_form(name: str, got: Array, expected: Array) -> None:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise ParityError(
            f"{name}: {got.dtype}{got.shape} where torch has {expected.dtype}{expected.shape}"
        )
