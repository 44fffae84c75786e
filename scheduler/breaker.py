"""A circuit breaker for each model on each device: what fails there again and again is left for a
while, and then tried by one batch. Pure.

    closed ──FAILURES in a row──> open ──its pause is over──> half open
      ^                             ^                            │ │
      │                             └──one failure: twice as long┘ │
      └───────────────────────────────────────────one success──────┘

Failures of one moment are one: a call that fails takes all its rows along. Whose fault it was is
not known here, and need not be: attempts are counted elsewhere (outcomes.py).
"""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = 3
ONE_MOMENT = 1.0  # seconds
PAUSE, LONGEST_PAUSE = 10.0, 300.0  # seconds; doubles


@dataclass
class Breaker:
    """One model's, on one device, since it last succeeded there: with that it is forgotten.

    open_until: nothing of the model is begun there before.
    """

    open_until: float = 0.0
    _failures: int = 0
    _last: float = float("-inf")
    _pause: float = PAUSE

    def failed(self, now: float) -> float:
        """Something failed. Seconds for which it is opened by that; 0 where it is not."""
        if now - self._last < ONE_MOMENT or now < self.open_until:
            return 0.0
        self._last = now
        self._failures += 1
        if self._failures < FAILURES:
            return 0.0
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        self.open_until = now + pause
        return pause
