"""What the core knows of a model: bytes and seconds, from a card or from a scenario. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    # Of the weights, what other models have too: part -> bytes. A device holds a part once.
    shared: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def activation(self) -> float:
        """Bytes that must be free beside its weights: one row of its largest shape."""
        return max(shape.activation for shape in self.shapes.values())

    def most_rows(self, shape: str, room: float) -> int:
        """Rows of a shape that fit beside its weights alone, in `room` bytes."""
        costs = self.shapes[shape]
        if costs.activation <= 0:
            return costs.batch_cap
        return max(0, int((room - self.weights) / costs.activation))

    @cached_property
    def own(self) -> float:
        """Bytes of its weights that no other model has."""
        return self.weights - sum(self.shared.values())

    @cached_property
    def displaced(self) -> float:
        """Bytes that its going frees, beside another that has the shared parts; never none."""
        return max(1.0, self.own)

    @property
    def gains_from_host(self) -> float:
        """Seconds that a load from host memory is faster than one from disk."""
        return self.load - self.load_host if self.load_host is not None else 0.0


def union(models: Iterable[Model]) -> float:
    """Bytes of the weights of all of them, what they share counted once."""
    own, parts = 0.0, dict[str, float]()
    for model in models:
        own += model.own
        parts.update(model.shared)
    return own + sum(parts.values())


def kept_within(room: float, model: Model, was: Model) -> Model:
    """A model as it was measured, but with a place in `room` bytes for whatever had one before.

    It was measured where it runs. Were it believed to fit nowhere, it would be run no more, so
    never be measured again, and who asks for it would wait for ever.
    """
    placed = {name for name in model.shapes if was.weights + was.shapes[name].activation <= room}
    if not placed:
        return model
    largest = max(was.shapes[name].activation for name in placed)
    weights = min(model.weights, math.floor(room - largest))
    shapes = {
        name: replace(shape, activation=min(shape.activation, math.floor(room - weights)))
        for name, shape in model.shapes.items()
        if name in placed
    }
    all_shapes = type(model.shapes)({**model.shapes, **shapes})  # type: ignore[call-arg]
    return replace(model, weights=weights, shapes=all_shapes)


def models_of(cards: Iterable[ModelCard]) -> dict[str, Model]:
    """The cards' costs by name; Triton models that several cards name are shared parts."""
    cards = list(cards)
    named = Counter(part for card in cards for part in card.weights)
    return {
        card.name: model_of(card, [part for part in card.weights if named[part] > 1])
        for card in cards
    }


def model_of(card: ModelCard, shared: Iterable[str] = ()) -> Model:
    """A card's costs; step times are fitted by the line through the first and the last point."""
    return Model(
        name=card.name,
        weights=card.resident_bytes,
        load=card.load_seconds,
        shapes=_Shapes((name, _shape_of(profile)) for name, profile in card.profiles.items()),
        shared={part: card.weights[part] for part in shared},
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
