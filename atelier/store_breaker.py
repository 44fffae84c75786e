"""When to leave off asking: a circuit breaker. Pure, but for its lock.

It opens at the first call that failed, since that had its tries and its time already, or at the
third slow one in a row. It closes when probes went well three times in a row, so that a store that
comes and goes is not asked again each time it comes: each time costs somebody the whole patience.
Nobody's work is a probe.
"""

from __future__ import annotations

from threading import Lock

SLOW_CALLS = 3
GOOD_PROBES = 3


class Breaker:
    """Called from any thread. What opens or closes it returns True, once."""

    def __init__(self, slow_seconds: float) -> None:
        self._slow_seconds = slow_seconds
        self._slow = self._good = 0
        self._open = False
        self._lock = Lock()

    @property
    def is_open(self) -> bool:
        """Whether to leave it alone."""
        return self._open

    def failed(self) -> bool:
        """A call failed; whether that opened it."""
        with self._lock:
            return self._opened()

    def worked(self, seconds: float) -> bool:
        """A call worked, and took so long; whether that opened it."""
        with self._lock:
            self._slow = self._slow + 1 if seconds >= self._slow_seconds else 0
            return self._slow >= SLOW_CALLS and self._opened()

    def probed(self, seconds: float | None) -> bool:
        """A probe took so long, or failed (None); whether that closed it."""
        with self._lock:
            good = seconds is not None and seconds < self._slow_seconds
            self._good = self._good + 1 if good else 0
            if not self._open or self._good < GOOD_PROBES:
                return False
            self._open = False
            return True

    def _opened(self) -> bool:
        was, self._open = self._open, True
        self._slow = self._good = 0
        return not was
