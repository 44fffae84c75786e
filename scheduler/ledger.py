"""Memory that a device does not give back: what loads took against what unloads gave. Pure.

Only the driver's own differences are compared, each taken by the agent around one load or unload;
declared bytes decide nothing, for they may be wrong on any device by more than a leak is large.
What a load took is shared out to its Triton models by their declared weights, since unloads need
not take away the same ones (shared components stay).

Memory that comes back late (samples that fall while nothing moves) is taken off what is owed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FRACTION, LEAST_BYTES = 0.025, 64 * 2**20  # of the device's memory: half of the reserve
SAMPLES = 2  # in a row, before it counts as kept


@dataclass
class Ledger:
    """One device's, since its Triton was started."""

    owed: float = 0.0  # bytes that were taken and not given back
    _took: dict[str, float] = field(default_factory=dict)  # by Triton model
    _stale: bool = False
    _used: float | None = None  # by the last sample in which nothing moved
    _running: frozenset[str] = frozenset()
    _seen: int = 0  # samples in a row in which too much was owed

    def loaded(
        self, triton_models: Sequence[str], took: float, weights: Mapping[str, float]
    ) -> None:
        """These came, and the driver says that `took` bytes more are in use; 0: it says nothing."""
        self._moved()
        for name in triton_models:
            self._took.pop(name, None)
        total = sum(weights.get(name, 0.0) for name in triton_models)
        if took > 0 and total > 0:
            shares = {name: took * weights.get(name, 0.0) / total for name in triton_models}
            self._took.update(shares)

    def unloaded(self, triton_models: Sequence[str], gave: float | None) -> None:
        """These went, and `gave` bytes fewer are in use: 0 may well be the truth. None: the driver
        did not say."""
        self._moved()
        taken = [self._took.pop(name, None) for name in triton_models]
        known = [took for took in taken if took is not None]
        if gave is not None and len(known) == len(taken) and known:
            self.owed = max(0.0, self.owed + sum(known) - gave)

    def restarted(self) -> None:
        """Its Triton is a new process: all is given back, or is nobody's any more."""
        self._moved()
        self._took.clear()
        self.owed = 0.0

    def sampled(self, used: float, total: float, *, moving: bool, running: frozenset[str]) -> bool:
        """Whether it keeps memory for good.

        Args:
            moving: something comes or goes there now.
            running: what runs there; where that changed, so may have what it holds.
        """
        if moving or used <= 0:
            self._moved()
            return False
        if self._stale:  # it may have been taken before the last load or unload ended
            self._stale = False
            return False
        if self._used is not None and used < self._used and running == self._running:
            self.owed = max(0.0, self.owed - (self._used - used))
        self._used, self._running = used, running
        self._seen = self._seen + 1 if self.owed > max(LEAST_BYTES, FRACTION * total) else 0
        return self._seen >= SAMPLES

    def _moved(self) -> None:
        self._stale, self._used, self._seen = True, None, 0
