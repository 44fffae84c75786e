"""Looks at a clip and says what moves in it, and whereto. numpy only; exact on true renderings.

Each frame is read as a picture (`checker`). Colours and shape are those of most frames; the motion
is the straight line that fits the figure's centres best. A clip with frames that show no figure,
or whose figure leaps about, shows nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.tiny.checker import Figure, figure_in
from exporters.tiny.scenes import Pixels
from exporters.tiny.video_scenes import Clip, path

MIN_TRAVEL = 0.2  # of the side over the whole clip; a true motion travels 0.44
MAX_STRAY = 0.1  # of the side: the farthest that a centre may be from the line
NEAR = 0.06  # of the side: how near to its true place a figure must be for a frame to be right


@dataclass(frozen=True, slots=True)
class ClipReading:
    """What a clip shows; `figures` has one entry a frame."""

    clip: Clip
    figures: tuple[Figure, ...]

    def frames_right(self, asked: Clip) -> int:
        """Frames in which shape, colours and place are all as asked."""
        places = path(asked.motion, len(self.figures))
        return sum(
            (seen.shape, seen.colour, seen.background)
            == (asked.shape, asked.colour, asked.background)
            and np.hypot(seen.x - x, seen.y - y) <= NEAR
            for seen, (x, y) in zip(self.figures, places, strict=True)
        )


def read_clip(frames: Pixels) -> ClipReading | None:
    """What uint8 (T, H, H, 3) shows, or None if not every frame has a figure on one smooth way.

    Raises:
        ValueError: not at least two frames, or a frame is not a square uint8 (H, H, 3).
    """
    if frames.ndim != 4 or len(frames) < 2:
        raise ValueError(f"expected frames (T, H, H, 3) with T >= 2, got {frames.shape}")
    figures = [figure for frame in frames if (figure := figure_in(frame))]
    if len(figures) < len(frames):
        return None
    motion = _motion([(figure.x, figure.y) for figure in figures])
    if motion is None:
        return None
    colour, background = _most([(figure.colour, figure.background) for figure in figures])
    shape = _most([figure.shape for figure in figures])
    return ClipReading(Clip(shape, colour, background, motion), tuple(figures))


def _most(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _motion(centres: Sequence[tuple[float, float]]) -> str | None:
    """The direction of the line through the centres, or None if they do not lie along one."""
    where = np.array(centres)
    when = np.linspace(-0.5, 0.5, len(where))
    travel = (when @ where) / (when @ when)  # least squares: shares of the side over the clip
    line = where.mean(axis=0) + when[:, None] * travel
    if np.hypot(*(where - line).T).max() > MAX_STRAY:
        return None
    dx, dy = travel
    if max(abs(dx), abs(dy)) < MIN_TRAVEL:
        return "still"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"
