"""What is told once a second, however often it happens: a flood is no flood in the log. Pure."""

from __future__ import annotations

import math

EVERY_SECONDS = 1.0
KEPT_SECONDS = 60.0  # that a name is, after it was told


class Seldom:
    """Counts what happens, by name, until it is told. Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}  # when, and how many there were since

    def count(self, now: float, name: str = "") -> int:
        """One more. How many there were since it was last told, this one too; 0: say nothing."""
        at, untold = self._told.get(name, (-math.inf, 0))
        if now - at < EVERY_SECONDS:
            self._told[name] = at, untold + 1
            return 0
        self._told = {one: told for one, told in self._told.items() if now - told[0] < KEPT_SECONDS}
        self._told[name] = now, 0
        return untold + 1
