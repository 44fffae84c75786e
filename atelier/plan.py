"""What a tenant may ask for: its plan. Pure.

Zero is no bound. A tenant that has no plan of its own has the house's (ATELIER_DEFAULT_PLAN), which
bounds nothing unless told to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from atelier.errors import Violation
from atelier.generation import Priority

MOST_A_SECOND, MOST_AT_ONCE = 100_000.0, 10_000_000
MOST_GPU_SECONDS = 10_000_000.0
MOST_STREAMS = 10_000  # open at one gateway, where that is told nothing else
FULL_AGAIN_SECONDS = 5.0  # when to come again where only an end makes room


@dataclass(frozen=True)
class Plan:
    """Bounds of one tenant.

    Attributes:
        highest_priority: the most urgent class that it may ask for.
        requests_per_second: generations that it may create, in the long run.
        requests_burst: that it may create at once after a pause; 0: what a second gives.
        gpu_seconds_per_hour: of devices, in the long run; what its generations take is told when
            they leave their device, so that it may be overdrawn by what runs, and is made up for.
        gpu_seconds_burst: that it may take at once after a pause; 0: what an hour gives.
        max_queued: generations that may wait at the same time.
        max_unfinished: that may wait and run at the same time.
    """

    highest_priority: Priority = Priority.INTERACTIVE
    requests_per_second: float = 0.0
    requests_burst: int = 0
    gpu_seconds_per_hour: float = 0.0
    gpu_seconds_burst: float = 0.0
    max_queued: int = 0
    max_unfinished: int = 0

    @property
    def request_capacity(self) -> float:
        """Of the bucket of requests: at least one, else nobody could ask."""
        return max(1.0, self.requests_burst or self.requests_per_second)

    @property
    def gpu_seconds_capacity(self) -> float:
        """Of the bucket of GPU-seconds."""
        return self.gpu_seconds_burst or self.gpu_seconds_per_hour


UNBOUNDED = Plan()


def plan_violations(plan: Plan, path: str = "plan") -> list[Violation]:
    """What is wrong with a plan that is to be written."""
    bounds = {
        "requests_per_second": MOST_A_SECOND,
        "requests_burst": MOST_AT_ONCE,
        "gpu_seconds_per_hour": MOST_GPU_SECONDS,
        "gpu_seconds_burst": MOST_GPU_SECONDS,
        "max_queued": MOST_AT_ONCE,
        "max_unfinished": MOST_AT_ONCE,
    }
    bad = []
    for field, most in bounds.items():
        value = getattr(plan, field)
        if not math.isfinite(value) or not 0 <= value <= most:
            must = f"must be 0 (no bound) to {most:g}; got {value:g}"
            bad.append(Violation(f"{path}.{field}", must))
    for rate, burst in (
        ("requests_per_second", "requests_burst"),
        ("gpu_seconds_per_hour", "gpu_seconds_burst"),
    ):
        if getattr(plan, burst) and not getattr(plan, rate):
            must = f"needs {rate}, by which it fills again: give both, or leave it out"
            bad.append(Violation(f"{path}.{burst}", must))
    return bad
