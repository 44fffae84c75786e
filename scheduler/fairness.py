"""Start-time fair queueing between tenants. Pure.

Each tenant has a clock for each class, which its work advances; what its clock is ahead of the
common one, beyond a grace, is added to the key that its request is queued by. So a tenant that
floods is served at its share, and the others' deadlines hold; within the share, deadlines decide.
(Goyal, Vin, Cheng: Start-time fair queueing, 1996.)
"""

from __future__ import annotations

from collections import defaultdict

GRACE = 2.0  # seconds that a tenant may be ahead of its fair share


class Fairness:
    """Tenants' clocks, in seconds of work."""

    def __init__(self) -> None:
        self._virtual = 0.0
        self._finish: dict[tuple[str, int], float] = {}
        self._starts: dict[str, float] = {}  # ticket -> its start tag
        self._unfinished: dict[str, int] = defaultdict(int)  # by tenant

    def arrived(self, ticket_id: str, tenant: str, level: int, work: float, speed: float) -> float:
        """Seconds by which the ticket's key lies behind its deadline. `speed`: the fleet's."""
        self._unfinished[tenant] += 1
        start = max(self._virtual, self._finish.get((tenant, level), 0.0))
        self._finish[tenant, level] = start + work
        self._starts[ticket_id] = start
        ahead = (start - self._virtual) * len(self._unfinished) / max(speed, 1e-9)
        return max(0.0, ahead - GRACE)

    def bound(self, ticket_id: str) -> None:
        """It is served: the common clock moves to its start."""
        self._virtual = max(self._virtual, self._starts.get(ticket_id, 0.0))

    def gone(self, ticket_id: str, tenant: str) -> None:
        """It ended."""
        self._starts.pop(ticket_id, None)
        self._unfinished[tenant] -= 1
        if self._unfinished[tenant] <= 0:
            del self._unfinished[tenant]
            for level in range(3):  # an idle tenant's clock is the common one
                if self._finish.get((tenant, level), 0.0) <= self._virtual:
                    self._finish.pop((tenant, level), None)
