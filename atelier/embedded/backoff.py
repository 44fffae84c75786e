"""How long to wait before a part that died is started again. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0
HEALTHY_SECONDS = 60.0  # a run of this length forgives what came before


@dataclass
class Backoff:
    """0.5 s, doubling to 30 s; from the start again after a minute of health."""

    failures: int = 0

    def after(self, ran_seconds: float) -> float:
        """Seconds to wait after a run that lasted `ran_seconds`."""
        if ran_seconds >= HEALTHY_SECONDS:
            self.failures = 0
        delay = min(FIRST_SECONDS * 2.0 ** min(self.failures, 16), LONGEST_SECONDS)
        self.failures += 1
        return delay
