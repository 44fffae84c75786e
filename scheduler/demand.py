"""What a replica of a model is worth: demand per replica rank. Pure.

One unit everywhere: class-weighted objectives met a second (weights 1, 2, 4 for class 0, 1, 2). A
request counts towards the rank of the replica that it needs: the first replica serves as many
pictures of a burst as it ends within the objective one after another, the next replica the next
ones, and so on. So a model with rare single requests is worth one replica, and one with bursts of
eight pictures is worth several, and eviction, loading and prefetch compare them in the same unit.

What is to come is the sum of recency, frequency, and what the sittings of now promise
(sessions.py).
"""

from __future__ import annotations

import math
from collections import defaultdict

from scheduler.runqueue import WEIGHTS, Ticket
from scheduler.sessions import Sessions

FAST, SLOW = 60.0, 3600.0  # seconds: recency and frequency
ALPHA = 0.2  # share of recency
RANKS = 8


class Demand:
    """Decayed sums for each (model, rank), and counts of what can still be in time."""

    def __init__(self) -> None:
        self._sums: dict[str, list[list[float]]] = {}  # model -> rank -> [fast, slow, when]
        self._outstanding: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._work: dict[str, list[float]] = {}  # model -> [EWMA of work a second, when]
        self._load: dict[str, float] = {}  # model -> seconds, as of its last request
        self._sessions = Sessions()
        self._heat: dict[str, list[float]] = {}  # model -> [EWMA of weight a second, when]

    def arrived(self, ticket: Ticket, load: float, now: float) -> None:
        """Count a new request. `load`: seconds to load its model from where it is nearest."""
        counts = self._outstanding[ticket.model]
        cls = ticket.cls
        ahead = 1 + sum(counts[cls:])
        serial = max(1, int(ticket.slo / ticket.work)) if ticket.slo < math.inf else 1_000
        rank = min(RANKS, 1 + (ahead - 1) // serial)
        slack = ticket.slo - ticket.work
        loss = min(1.0, load / slack) if slack > 0 else 1.0
        sums = self._sums.get(ticket.model)
        if sums is None:
            sums = self._sums[ticket.model] = [[0.0, 0.0, now] for _ in range(RANKS + 1)]
        entry = sums[rank]
        gone = now - entry[2]
        gain = WEIGHTS[cls] * loss
        entry[0] = entry[0] * math.exp(-gone / FAST) + gain / FAST
        entry[1] = entry[1] * math.exp(-gone / SLOW) + gain / SLOW
        entry[2] = now
        self._load[ticket.model] = load
        self._sessions.arrived(ticket.tenant, ticket.model, rank, gain, now)
        work = self._work.setdefault(ticket.model, [0.0, now])
        work[0] = work[0] * math.exp(-(now - work[1]) / FAST) + ticket.work / FAST
        work[1] = now
        heat = self._heat.setdefault(ticket.model, [0.0, now])
        heat[0] = heat[0] * math.exp(-(now - heat[1]) / SLOW) + WEIGHTS[cls] / SLOW
        heat[1] = now
        counts[cls] += 1
        ticket.counted = True

    def tick(self, now: float) -> None:
        """Sittings age, also while nothing arrives."""
        self._sessions.age(now)

    def settled(self, ticket: Ticket) -> None:
        """It ended, was dropped, or became late: it no longer counts."""
        if ticket.counted:
            ticket.counted = False
            self._outstanding[ticket.model][ticket.cls] -= 1

    def worth(self, model: str, rank: int, now: float) -> float:
        """What the rank-th replica is worth a second."""
        sums = self._sums.get(model)
        if sums is None or rank > RANKS:
            return 0.0
        fast, slow, when = sums[rank]
        gone = now - when
        warm = 1.0 - math.exp(-max(now, 5.0) / SLOW)
        return (
            ALPHA * fast * math.exp(-gone / FAST)
            + (1 - ALPHA) * slow * math.exp(-gone / SLOW) / warm
            + self._sessions.rate(model, rank, self._load[model])
        )

    def work_rate(self, model: str, now: float) -> float:
        """Seconds of work that arrive a second, of late."""
        work = self._work.get(model)
        return work[0] * math.exp(-(now - work[1]) / FAST) if work else 0.0

    def heat(self, model: str, now: float) -> float:
        """Class weight that asks for it a second, over the last hour."""
        heat = self._heat.get(model)
        return heat[0] * math.exp(-(now - heat[1]) / SLOW) if heat else 0.0
