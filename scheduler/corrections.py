"""What models cost in truth, against what their cards say. Pure.

Each measure goes into a short history; the median of that counts, smoothed and bounded:

    bytes    more than declared: half of the difference is believed at the first measure, three
             quarters at the second, and so on: what does not fit must not be tried for long.
             Less than declared: only after ENOUGH measures, and never less than the largest of
             them: that memory would be promised to others.
    seconds  towards the median from the first measure on.

A figure is replaced when it would change by more than a few per cent. Nothing is ever believed
beyond MOST_BYTES or MOST_SECONDS times the card, either way: then it is the measure that is wrong.

Devices are not told apart: where they differ in kind, the median of all counts. Not kept over a
restart of the scheduler: it learns again from the next loads and batches.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from atelier.catalog import ModelCard
from scheduler.model import Model, Shape

HISTORY = 9  # measures of each figure
ENOUGH = 5  # before bytes may be less than declared
MOST_BYTES, MOST_SECONDS = 4.0, 10.0  # factors
BYTES_STEP, SECONDS_STEP = 0.02, 0.05  # relative changes that are not worth telling
LEAST_BYTES = 2**20
MOST_SHAPES = 64  # of a model
LEAST_PART = 0.5  # of its weights, for a load to tell how long a whole one takes

_History = defaultdict[object, deque[float]]


@dataclass(frozen=True)
class Correction:
    """A model as it is to be counted from now on, and why."""

    model: Model
    reason: str


def component_bytes(card: ModelCard) -> dict[str, float]:
    """Declared bytes by Triton model; what the card does not break down is the denoiser's."""
    found = {name: float(card.weights.get(name, 0)) for name in card.components.triton_models}
    found[card.components.denoiser] += card.resident_bytes - sum(found.values())
    return found


class Corrections:
    """All measures, and the models as they stand. Owned by one loop."""

    def __init__(
        self, declared: Mapping[str, Model], components: Mapping[str, Mapping[str, float]]
    ) -> None:
        """`components`: declared bytes by Triton model, for each model."""
        self.components = components
        self._declared = dict(declared)
        self._now = dict(declared)
        self._bytes: _History = defaultdict(lambda: deque(maxlen=HISTORY))
        self._seconds: _History = defaultdict(lambda: deque(maxlen=HISTORY))

    def loaded(
        self,
        model: str,
        triton_models: Sequence[str],
        took_bytes: float,
        seconds: float,
        *,
        from_host: bool,
    ) -> list[Correction]:
        """A load ended well. `took_bytes` 0: the driver says nothing."""
        if model not in self._declared:
            return []
        declared = self.components[model]
        found: list[Correction] = []
        total = sum(declared.get(name, 0.0) for name in triton_models)
        if took_bytes > 0 and total > 0:
            for name in triton_models:
                self._bytes[name].append(took_bytes * declared.get(name, 0.0) / total)
            sharing = [m for m, parts in self.components.items() if parts.keys() & {*triton_models}]
            for one in sharing:
                found += self._weigh(one, took_bytes, total)
        whole = sum(declared.values())
        if seconds > 0 and total >= LEAST_PART * whole > 0:  # a part takes its part of the time
            found += self._time_load(model, seconds * whole / total, from_host=from_host)
        return found

    def batch(
        self, model: str, shape: str, rows: int, step_seconds: float, held_bytes: float
    ) -> list[Correction]:
        """A batch's steps were measured. `held_bytes`: what it held beside the weights, or 0."""
        if not self._knows(model, shape, rows):
            return []
        base = self._declared[model]
        found: list[Correction] = []
        if held_bytes > 0:
            history = self._bytes[model, shape]
            history.append(held_bytes / rows)
            declared = base.shapes[shape].activation
            activation = _believed_bytes(declared, history)
            now = self._now[model].shapes[shape]
            if _differs(now.activation, activation, BYTES_STEP, LEAST_BYTES):
                why = f"a row of {shape} held {held_bytes / rows:.0f} bytes"
                found += self._reshape(model, shape, replace(now, activation=activation), why)
        if step_seconds > 0:
            self._seconds[model, shape, rows].append(step_seconds)
            fitted = self._fit(model, shape)
            now = self._now[model].shapes[shape]
            if _differs(now.step(rows), fitted.step(rows), SECONDS_STEP):
                why = f"a step of {rows} rows of {shape} took {step_seconds:.4g} s"
                timed = replace(now, step_a=fitted.step_a, step_c=fitted.step_c)
                found += self._reshape(model, shape, timed, why)
        return found

    def _knows(self, model: str, shape: str, rows: int) -> bool:
        """Whether there is anything to correct: a shape that the card has not is its largest, until
        it is measured (model.py); of an agent's inventions no more than MOST_SHAPES."""
        if model not in self._declared:
            return False
        try:
            cap = self._declared[model].shapes[shape].batch_cap
        except KeyError:
            return False
        if not 0 < rows <= cap:
            return False
        shapes = self._now[model].shapes
        return shape in shapes or len(shapes) < MOST_SHAPES

    def _weigh(self, model: str, took: float, total: float) -> list[Correction]:
        parts = {
            name: _believed_bytes(size, self._bytes[name])
            for name, size in self.components[model].items()
        }
        now, weights = self._now[model], sum(parts.values())
        if not _differs(now.weights, weights, BYTES_STEP, LEAST_BYTES):
            return []
        why = f"weights {now.weights:.0f} -> {weights:.0f} bytes, "
        why += f"a load took {took:.0f}, not {total:.0f}"
        shared = {name: parts[name] for name in now.shared}
        return self._replace(replace(now, weights=weights, shared=shared), why)

    def _time_load(self, model: str, seconds: float, *, from_host: bool) -> list[Correction]:
        history = self._seconds[model, from_host]
        history.append(seconds)
        base, now = self._declared[model], self._now[model]
        if from_host:
            host = _believed_seconds(base.load_host or base.load, history)
            if now.load_host and not _differs(now.load_host, host, SECONDS_STEP):
                return []
            return self._replace(
                replace(now, load_host=host), f"load from host memory: {host:.3g} s"
            )
        load = _believed_seconds(base.load, history)
        if not _differs(now.load, load, SECONDS_STEP):
            return []
        return self._replace(replace(now, load=load), f"load {now.load:.3g} -> {load:.3g} s")

    def _fit(self, model: str, name: str) -> Shape:
        """The line through the fewest and the most rows that were measured; through one point, the
        declared line made steeper or flatter."""
        shape = self._declared[model].shapes[name]
        measured = {
            rows: _believed_seconds(shape.step(rows), history)
            for rows in range(1, shape.batch_cap + 1)
            if (history := self._seconds.get((model, name, rows)))
        }
        low, high = min(measured), max(measured)
        if low == high:
            factor = measured[low] / shape.step(low)
            return replace(shape, step_a=shape.step_a * factor, step_c=shape.step_c * factor)
        step_c = max(0.0, (measured[high] - measured[low]) / (high - low))
        step_a = max(0.0, measured[low] - step_c * low)
        return replace(shape, step_a=step_a, step_c=step_c)

    def _reshape(self, model: str, name: str, shape: Shape, why: str) -> list[Correction]:
        now = self._now[model]
        shapes = type(now.shapes)({**now.shapes, name: shape})  # type: ignore[call-arg]
        return self._replace(replace(now, shapes=shapes), why)

    def _replace(self, model: Model, why: str) -> list[Correction]:
        self._now[model.name] = model
        return [Correction(model, why)]


def _believed_bytes(declared: float, measured: Sequence[float]) -> float:
    if not measured or declared <= 0:
        return declared
    middle = min(median(measured), declared * MOST_BYTES)
    if middle > declared:
        return float(declared + (middle - declared) * (1 - 0.5 ** len(measured)))
    if len(measured) < ENOUGH:
        return declared
    return float(min(declared, max(*measured, declared / MOST_BYTES)))


def _believed_seconds(declared: float, measured: Sequence[float]) -> float:
    middle = median(measured)
    middle = min(max(middle, declared / MOST_SECONDS), declared * MOST_SECONDS)
    return float(declared + (middle - declared) * (1 - 0.5 ** len(measured)))


def _differs(now: float, then: float, step: float, least: float = 0.0) -> bool:
    return abs(then - now) > max(least, step * abs(now))
