"""Looks at a picture and says which scene it shows. numpy only; exact on true renderings.

The background is the palette colour nearest to the median of the border, the figure's colour that
nearest to the median of the pixels farthest from the background. The picture is then read as a
share of figure in each pixel (its projection on the line between the two colours); the bounding
box of that share gives the place, and the template of shape and size that fits it best the rest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.tiny.scenes import (
    PALETTE,
    POSITIONS,
    SHAPES,
    SIZES,
    Coverage,
    Pixels,
    Scene,
    coverage,
)

BORDER_SHARE = 1 / 32  # of the side: no true figure comes nearer to the edge
FIGURE_DISTANCE = 60.0  # in RGB levels; the nearest two palette colours are 100 apart
MIN_FIGURE_SHARE = 0.01  # of the picture's pixels; the smallest true figure covers 2 %

_COLOURS = np.array(list(PALETTE.values()), dtype=np.float32)
_NAMES = list(PALETTE)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as it is seen: its centre in shares of the side, and its best template's error."""

    shape: str
    colour: str
    background: str
    size: str
    x: float
    y: float
    misfit: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a picture shows and how well: `misfit` is the RMS error of the best template, 0..1."""

    scene: Scene
    misfit: float


def measure(pixels: Pixels) -> Scene | None:
    """The scene shown by uint8 (H, W, 3), or None if there is no figure on the background."""
    reading = read(pixels)
    return reading.scene if reading else None


def read(pixels: Pixels) -> Reading | None:
    """As `measure`, with the misfit of the figure's outline.

    Raises:
        ValueError: the picture is not a square uint8 (H, H, 3).
    """
    figure = figure_in(pixels)
    if figure is None:
        return None
    position = _nearest_position(figure.x, figure.y)
    scene = Scene(figure.shape, figure.colour, figure.background, position, figure.size)
    return Reading(scene, figure.misfit)


def figure_in(pixels: Pixels) -> Figure | None:
    """The figure wherever it is, or None if there is none on the background.

    Raises:
        ValueError: the picture is not a square uint8 (H, H, 3).
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] != pixels.shape[1]:
        raise ValueError(f"expected square RGB pixels (H, H, 3), got {pixels.shape}")
    if pixels.dtype != np.uint8:
        raise ValueError(f"expected uint8 pixels, got {pixels.dtype}")
    picture = pixels.astype(np.float32)
    side = picture.shape[0]

    ground = _nearest(np.median(_border(picture), axis=0))
    distance = np.linalg.norm(picture - _COLOURS[ground], axis=-1)
    far = distance > FIGURE_DISTANCE
    if far.mean() < MIN_FIGURE_SHARE:
        return None
    core = distance >= np.quantile(distance[far], 0.5)
    figure = _nearest(np.median(picture[core], axis=0))
    if figure == ground:
        return None

    cover = _coverage_between(picture, _COLOURS[ground], _COLOURS[figure])
    inside = cover > 0.5
    if inside.mean() < MIN_FIGURE_SHARE:
        return None
    x, y = _box_centre(inside)
    shape, size, misfit = _best_template(cover, x, y, side)
    return Figure(shape, _NAMES[figure], _NAMES[ground], size, x, y, misfit)


def _border(picture: Coverage) -> Coverage:
    """Pixels of the outermost ring: float32 (N, 3)."""
    width = max(1, round(BORDER_SHARE * picture.shape[0]))
    inner = np.ones(picture.shape[:2], dtype=bool)
    inner[width:-width, width:-width] = False
    return picture[inner]


def _nearest(colour: NDArray[np.float32]) -> int:
    return int(np.argmin(np.linalg.norm(_COLOURS - colour, axis=1)))


def _coverage_between(
    picture: Coverage, ground: NDArray[np.float32], figure: NDArray[np.float32]
) -> Coverage:
    """Share of the figure's colour in each pixel: float32 (H, W) in 0..1."""
    line = figure - ground
    return np.asarray(np.clip((picture - ground) @ line / (line @ line), 0, 1), dtype=np.float32)


def _box_centre(inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Centre of the bounding box as (x, y) in shares of the side; strays are trimmed.

    A row or a column counts if it holds a tenth as much of the figure as the fullest one does.
    """

    def middle(counts: NDArray[np.int64]) -> float:
        hit = np.flatnonzero(counts >= max(1.0, 0.1 * counts.max()))
        return float(hit[0] + hit[-1] + 1) / 2 / len(counts)

    return middle(inside.sum(axis=0)), middle(inside.sum(axis=1))


def _nearest_position(x: float, y: float) -> str:
    return min(POSITIONS, key=lambda name: np.hypot(x - POSITIONS[name][0], y - POSITIONS[name][1]))


def _best_template(cover: Coverage, x: float, y: float, side: int) -> tuple[str, str, float]:
    """Shape, size and RMS error of the template nearest to `cover`, tried a little up and down."""
    best = ("", "", np.inf)
    for shape in SHAPES:
        for size, radius in SIZES.items():
            for lift in (-1 / 64, 0.0, 1 / 64):
                error = cover - coverage(shape, x, y + lift, radius, side)
                rms = float(np.sqrt(np.mean(error**2)))
                if rms < best[2]:
                    best = (shape, size, rms)
    return best
