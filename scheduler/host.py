"""The host memory of a node, as a tier of weights between disk and its devices. Pure.

A load from host memory takes a fraction of one from disk. Weights come here at the end of a load
from disk, when a device of the node gives them up, or by a read of their own when the node's disk
has nothing better to do. What a model is worth here is how often it is asked for, times the
seconds that a load is shorter, a byte; what is worth least goes, and a newcomer worth less still
does not come in. That a device fails changes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from scheduler.model import Model, union

WARM_GAIN = 1.5  # a read of its own must be worth so many times what it displaces

Value = Callable[[str, float], float]  # of a model at a time, a byte


@dataclass(eq=False, slots=True)
class HostTier:
    """One node's. `value` is asked for anew each time: it changes."""

    node: str
    capacity: float  # bytes
    models: Mapping[str, Model]
    value: Value
    held: dict[str, None] = field(default_factory=dict)  # models, in order of their coming
    parts: frozenset[str] = frozenset()  # of those that models share
    warming: str = ""  # read from disk now

    def admit(self, model: str, now: float) -> bool:
        """Take in weights that are at hand, if they are worth their place; True if that is so."""
        if model in self.held or not self._make_room(model, self.value(model, now), now):
            return False
        self.holds([*self.held, model])
        return True

    def warm(self, model: str, now: float) -> bool:
        """Begin to read a model from disk, if that pays; True if so."""
        if self.warming or model in self.held:
            return False
        if not self._make_room(model, self.value(model, now) / WARM_GAIN, now):
            return False
        self.warming = model
        return True

    def warmed(self, model: str) -> None:
        """The read is over."""
        self.warming = ""
        self.holds([*self.held, model])

    def holds(self, models: Iterable[str]) -> None:
        """These are there."""
        self.held = dict.fromkeys(models)
        self.parts = frozenset(part for m in self.held for part in self.models[m].shared)

    def seconds_of_load(self, model: Model, there: Collection[str]) -> float:
        """Seconds to load a model from here; `there`: shared parts that the device has.

        Each part takes its share of the time from where it is nearest.
        """
        fast = model.load if model.load_host is None else model.load_host
        seconds = model.own * (fast if model.name in self.held else model.load)
        for part, size in model.shared.items():
            if part not in there:
                seconds += size * (fast if part in self.parts else model.load)
        return seconds / model.weights

    def _make_room(self, model: str, worth: float, now: float) -> bool:
        """Let go of the least valuable for it; False if they are worth as much, or not enough."""
        kept = list(dict.fromkeys([model, *self.held, self.warming or model]))
        if self._size(kept) <= self.capacity:
            return True
        for value, other in sorted((self.value(m, now), m) for m in self.held):
            if value >= worth:
                return False
            kept.remove(other)
            if self._size(kept) <= self.capacity:
                self.holds(m for m in self.held if m in kept)
                return True
        return False

    def _size(self, names: Iterable[str]) -> float:
        """Bytes that these take here; all shards of a gang's model are."""
        found = [self.models[name] for name in names]
        return union(found) + sum(model.weights * (model.gang - 1) for model in found)
