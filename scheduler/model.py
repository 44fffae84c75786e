"""What the core knows of a model: bytes and seconds, from a card or from a scenario. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from atelier.catalog import ModelCard, Profile


@dataclass(frozen=True)
class Shape:
    """One shape's costs on a device of speed 1: step(b) = step_a + step_c * b seconds."""

    step_a: float
    step_c: float
    decode: float  # seconds a picture
    activation: float  # bytes a row
    batch_cap: int  # rows
    latent_mb: float = 0.1  # what moves with a generation that changes its device

    def step(self, rows: int) -> float:
        return self.step_a + self.step_c * rows

    def work(self, steps: int, rows: int = 1) -> float:
        """Seconds from its first step to its last pixel, alone."""
        return steps * self.step(rows) + rows * self.decode


@dataclass(frozen=True)
class Model:
    """One model's costs; a gang model's weights are sharded over `gang` devices of one node."""

    name: str
    weights: float  # bytes on each of its devices
    load: float  # seconds, from disk
    shapes: Mapping[str, Shape]
    gang: int = 1
    load_host: float | None = None  # seconds, from host memory; None: no faster than disk

    @cached_property
    def activation(self) -> float:
        """Bytes that must be free beside its weights: one row of its largest shape."""
        return max(shape.activation for shape in self.shapes.values())


def model_of(card: ModelCard) -> Model:
    """A card's costs; step times are fitted by the line through the first and the last point."""
    return Model(
        name=card.name,
        weights=card.resident_bytes,
        load=card.load_seconds,
        shapes=_Shapes((name, _shape_of(profile)) for name, profile in card.profiles.items()),
    )


class _Shapes(dict[str, Shape]):
    """A shape that was not measured counts as the largest that was."""

    def __missing__(self, name: str) -> Shape:
        return max(self.values(), key=lambda shape: shape.activation)


def _shape_of(profile: Profile) -> Shape:
    (low, a), (high, b) = profile.step_seconds[0], profile.step_seconds[-1]
    step_c = (b - a) / (high - low) if high > low else 0.0
    return Shape(
        step_a=a - step_c * low,
        step_c=step_c,
        decode=step_c,
        activation=profile.activation_bytes_per_row,
        batch_cap=profile.batch_cap,
    )
