"""Token buckets, on the clock of whoever asks. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_IDLE = 10_000  # buckets kept by name; those that are full again are forgotten first


@dataclass
class Bucket:
    """Tokens: `rate` of them come a second, up to `capacity`; below 0 is a debt."""

    rate: float
    capacity: float
    level: float
    at: float  # seconds

    def fill(self, now: float) -> float:
        """What is in it by now."""
        self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.rate)
        self.at = now
        return self.level

    def seconds_until(self, level: float) -> float:
        """From the latest `fill` on."""
        return max(0.0, (level - self.level) / self.rate) if self.rate else math.inf


def bucket_of(
    buckets: dict[str, Bucket], name: str, rate: float, capacity: float, now: float
) -> Bucket:
    """The one of that name; a new one is full."""
    found = buckets.get(name)
    if found is None:
        if len(buckets) >= MOST_IDLE:
            for known in [n for n, one in buckets.items() if one.fill(now) >= one.capacity]:
                del buckets[known]
        found = buckets[name] = Bucket(rate, capacity, capacity, now)
    return found


def soon(seconds: float) -> float:
    """A pause that a caller can be told: not none, and rounded up so that it is enough."""
    return max(0.01, math.ceil(seconds * 100) / 100)
