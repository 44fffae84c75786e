"""Who asked for a model a moment ago asks for it again: what that promises. Pure.

People draw in sittings: they change a word and ask the same model again. So the last request of a
tenant for a model foretells the next one, the better the fresher it is. How well is learned: for
each age of a last request, how many came again at that age, over how long all were that old. A
replica that is loaded now is there only after its load, so the rate is that of the age that the
session will have by then.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from dataclasses import dataclass, field

AGES = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)  # seconds; then it is over
TOGETHER = 1.0  # seconds: pictures of one request, not a return


@dataclass(eq=False, slots=True)
class _Session:
    """One tenant and one model: the last request, and what it was worth by rank of replica."""

    model: str
    began: float
    age: int = -1
    gains: dict[int, float] = field(default_factory=dict)
    moves: int = 0  # tells an entry of `_due` that it is void


class Sessions:
    """Learned rates of return, and the sessions that they apply to."""

    def __init__(self) -> None:
        ages = len(AGES) - 1
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._due: list[deque[tuple[float, _Session, int, tuple[str, str]]]] = [
            deque() for _ in range(ages)
        ]
        self._returned = [0.001] * ages  # as if each age had been watched for a second, in vain
        self._exposed = [1.0] * ages  # seconds
        self._gains: dict[str, list[dict[int, float]]] = defaultdict(
            lambda: [{} for _ in range(ages)]
        )
        # By model: for a load so long, until one of its sessions moves.
        self._rates: dict[str, tuple[float, dict[int, float]]] = {}

    def arrived(self, tenant: str, model: str, rank: int, gain: float, now: float) -> None:
        """A picture is asked for, which is worth `gain` to the replica of that rank."""
        self.age(now)
        key = tenant, model
        session = self._sessions.get(key)
        if session is not None and now - session.began <= TOGETHER:
            gains = {**session.gains, rank: session.gains.get(rank, 0.0) + gain}
            self._put(session, session.age, gains)
            return
        if session is None:
            session = self._sessions[key] = _Session(model, now)
        else:
            self._returned[session.age] += 1
            self._exposed[session.age] += now - session.began - AGES[session.age]
            session.began = now
        self._put(session, 0, {rank: gain})
        self._enter(session, key, now)

    def age(self, now: float) -> None:
        """Time has passed."""
        for age, due in enumerate(self._due):
            while due and due[0][0] <= now:
                when, session, moves, key = due.popleft()
                if session.moves != moves:
                    continue  # it returned
                self._exposed[age] += AGES[age + 1] - AGES[age]
                if age + 1 == len(self._due):
                    self._put(session, -1, {})
                    del self._sessions[key]
                    continue
                self._put(session, age + 1, session.gains)
                self._enter(session, key, when)

    def _enter(self, session: _Session, key: tuple[str, str], when: float) -> None:
        """It came to its age then, and will leave it."""
        session.moves += 1
        until = when + AGES[session.age + 1] - AGES[session.age]
        self._due[session.age].append((until, session, session.moves, key))

    def rate(self, model: str, rank: int, load: float) -> float:
        """Worth a second that its sessions promise to the replica of that rank, after a load."""
        kept = self._rates.get(model)
        if kept is None or kept[0] != load:
            rates = self._sum(model, load) if model in self._gains else {}
            kept = self._rates[model] = load, rates
        return kept[1].get(rank, 0.0)

    def _sum(self, model: str, load: float) -> dict[int, float]:
        rates: dict[int, float] = defaultdict(float)
        for age, gains in enumerate(self._gains[model]):
            then = bisect_right(AGES, (AGES[age] + AGES[age + 1]) / 2 + load) - 1
            if not gains or then >= len(self._returned):
                continue
            hazard = self._returned[then] / self._exposed[then]
            for rank, gain in gains.items():
                rates[rank] += hazard * gain
        return dict(rates)

    def _put(self, session: _Session, age: int, gains: dict[int, float]) -> None:
        """Count the session at this age, and no longer where it was; -1 is nowhere."""
        rows = self._gains[session.model]
        if session.age >= 0:
            row = rows[session.age]
            for rank, gain in session.gains.items():
                row[rank] -= gain
                if row[rank] < 1e-9:
                    del row[rank]
        session.age, session.gains = age, gains
        if age >= 0:
            for rank, gain in gains.items():
                rows[age][rank] = rows[age].get(rank, 0.0) + gain
        self._rates.pop(session.model, None)
