"""Is an INT8 model still its source? Each output on feeds that were not calibrated on.

Not parity.py's question: that compares formats of the same numbers, where every element must agree.
Here the numbers are others, and what counts is how far each row as a whole is off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.gate import INT8_GATE, Int8Gate
from exporters.int8 import Array, Feed
from exporters.measure import open_session


@dataclass(frozen=True)
class Likeness:
    """How like its source a model is in one output.

    Attributes:
        cosine: of floats, the least over rows.
        relative_l2: of floats, the greatest over rows.
        psnr_db: of bytes, the least over rows.
    """

    output: str
    cosine: float | None = None
    relative_l2: float | None = None
    psnr_db: float | None = None

    def holds(self, gate: Int8Gate) -> bool:
        """False too for anything that is not a number."""
        if self.psnr_db is not None:
            return self.psnr_db >= gate.min_psnr_db
        return self.relative_l2 is not None and self.relative_l2 <= gate.max_relative_l2

    @property
    def figures(self) -> dict[str, float]:
        """What was compared, without what does not apply."""
        told = {"cosine": self.cosine, "relative_l2": self.relative_l2, "psnr": self.psnr_db}
        return {name: round(value, 6) for name, value in told.items() if value is not None}

    def __str__(self) -> str:
        if self.psnr_db is not None:
            return f"{self.output}: PSNR {self.psnr_db:.1f} dB"
        return f"{self.output}: cosine {self.cosine:.5f}, relative L2 {self.relative_l2:.4f}"


class Int8Error(ValueError):
    """An INT8 model is too unlike its source; names each output and by how much."""


def compare(source: Path, quantized: Path, feeds: Sequence[Feed]) -> list[Likeness]:
    """Compare two models on feeds that were not calibrated on; one likeness for each output."""
    reference, session = open_session(source), open_session(quantized)
    names = [output.name for output in reference.get_outputs()]
    rows: dict[str, list[Likeness]] = {name: [] for name in names}
    for feed in feeds:
        for name, expected, got in zip(
            names, reference.run(names, feed), session.run(names, feed), strict=True
        ):
            rows[name] += [_row(name, *pair) for pair in zip(expected, got, strict=True)]
    return [_worst(name, found) for name, found in rows.items()]


def require(found: Iterable[Likeness], gate: Int8Gate = INT8_GATE) -> None:
    """Raises: Int8Error, if any likeness misses the gate."""
    if bad := [str(likeness) for likeness in found if not likeness.holds(gate)]:
        raise Int8Error(
            f"INT8 is too far from FP32: {'; '.join(bad)} (at most {gate.max_relative_l2} relative"
            f" L2, at least {gate.min_psnr_db} dB): calibrate on more generations, or keep"
            " --precision fp16"
        )


def _row(name: str, expected: Array, got: Array) -> Likeness:
    a, b = expected.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    if expected.dtype == np.uint8:
        error = float(np.mean((a - b) ** 2))
        return Likeness(name, psnr_db=10 * np.log10(255**2 / error) if error else np.inf)
    norm = float(np.linalg.norm(a)) or 1.0
    cosine = float(a @ b) / (norm * (float(np.linalg.norm(b)) or 1.0))
    return Likeness(name, cosine, float(np.linalg.norm(a - b)) / norm)


def _worst(name: str, rows: Sequence[Likeness]) -> Likeness:
    if any(row.psnr_db is not None for row in rows):
        return Likeness(name, psnr_db=float(np.min([row.psnr_db for row in rows])))
    # numpy's extremes, because Python's own would lose a NaN.
    return Likeness(
        name,
        float(np.min([row.cosine for row in rows])),
        float(np.max([row.relative_l2 for row in rows])),
    )
