"""Whether something grows: a slope and how sure one can be of it. Pure.

Samples that follow each other closely are alike, so a line through all of them looks surer than it
is. They are cut into windows of equal time, and the line goes through the windows' means: few, and
nearly independent (batch means; Law, Simulation Modeling and Analysis, chapter 9).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WINDOWS = 12
T_99 = 3.169  # Student's t for 99 %, both sides, of WINDOWS - 2 degrees of freedom

Samples = Sequence[tuple[float, float]]  # at which second, and what


@dataclass(frozen=True)
class Slope:
    """A second's growth, with its 99 % confidence interval."""

    value: float
    margin: float

    @property
    def low(self) -> float:
        return self.value - self.margin

    @property
    def high(self) -> float:
        return self.value + self.margin


def windows(samples: Samples) -> list[tuple[float, float]]:
    """The mean time and the mean value of each.

    Raises:
        ValueError: a window would be empty.
    """
    first, last = samples[0][0], samples[-1][0]
    parts: list[list[tuple[float, float]]] = [[] for _ in range(WINDOWS)]
    for at, value in samples:
        share = (at - first) / (last - first)
        parts[min(int(share * WINDOWS), WINDOWS - 1)].append((at, value))
    if not all(parts):
        raise ValueError(f"{len(samples)} samples do not fill {WINDOWS} windows: sample longer")
    return [
        (statistics.fmean(at for at, _ in part), statistics.fmean(value for _, value in part))
        for part in parts
    ]


def slope(samples: Samples) -> Slope:
    """Through the means of all windows, by least squares.

    Raises:
        ValueError: as `windows`.
    """
    points = windows(samples)
    at, values = [x for x, _ in points], [y for _, y in points]
    line = statistics.linear_regression(at, values)
    rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in points)
    middle = statistics.fmean(at)
    spread = sum((x - middle) ** 2 for x in at)
    return Slope(line.slope, T_99 * math.sqrt(rest / (WINDOWS - 2) / spread))
