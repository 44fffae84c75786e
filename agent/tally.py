"""What batches take: steps and seconds of each composition, for the scheduler's estimates. Pure.

A composition is (model, shape, rows). Its first step may hold a warm-up, so it does not count;
short runs are dropped, and of one composition at most one run is told in REPEAT_SECONDS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

Composition = tuple[str, str, int]  # model, shape, rows

LEAST_STEPS = 3
MOST_STEPS = 256  # then it is told, though it goes on
REPEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Run:
    """What a composition took; `peak_bytes` is the most memory in use that was seen, or 0."""

    composition: Composition
    steps: int
    step_seconds: float
    peak_bytes: int


@dataclass
class Tally:
    """One device's, step by step."""

    _now: Composition | None = None
    _seconds: list[float] = field(default_factory=list)
    _peak: int = 0
    _told: dict[Composition, float] = field(default_factory=dict)  # when last

    def step(self, composition: Composition, seconds: float, now: float) -> Run | None:
        """A step was made; the run that ended with it, if one did that is worth telling."""
        ended = None
        if composition != self._now or len(self._seconds) > MOST_STEPS:
            ended = self.end(now)
            self._now = composition
        self._seconds.append(seconds)
        return ended

    def memory(self, used_bytes: int) -> None:
        """So much was in use just now."""
        self._peak = max(self._peak, used_bytes)

    def end(self, now: float) -> Run | None:
        """Nothing runs, or something else does."""
        composition, seconds, peak = self._now, self._seconds[1:], self._peak
        self._now, self._seconds, self._peak = None, [], 0
        if composition is None or len(seconds) < LEAST_STEPS:
            return None
        last = self._told.get(composition)
        if last is not None and now - last < REPEAT_SECONDS:
            return None
        self._told[composition] = now
        return Run(composition, len(seconds), median(seconds), peak)


@dataclass
class Since:
    """What ran since a model last came or went. An engine keeps what its largest batch took, so
    only of that batch can be said what it held."""

    _changes: int = -1  # the loader's count then
    _model: str = ""  # the only one that ran; empty: none, or several
    _several: bool = False
    _most: int = 0  # declared bytes of its largest batch

    def runs(self, model: str, declared_bytes: int, changes: int) -> None:
        """A batch of so many bytes makes a step."""
        if changes != self._changes:
            self._changes, self._model, self._several, self._most = changes, model, False, 0
        self._several = self._several or model != self._model
        self._most = max(self._most, declared_bytes)

    def is_largest(self, model: str, declared_bytes: int) -> bool:
        """Whether only this model ran, and no larger batch of it."""
        return not self._several and model == self._model and declared_bytes >= self._most
