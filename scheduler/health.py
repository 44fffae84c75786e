"""How a device is, and what is to be done about it: a state machine for each. Pure.

    well ──trouble──> suspect ──goes on, or is sure──> out ──two good probes──> well
      │                  │                              │ ^
      │                  └──it passed──> well           │ └── recycled, or not
      │                     (often: out)                └──probes fail──> recycling
      └──memory is kept──> draining ──it is idle──> recycling

Only a well device takes new work. A suspect one goes on with what it has: a Triton that is slow for
a moment must cost nobody anything. From one that is out all work is taken back, to be done
elsewhere, and it is probed: later each time it fails, and later also when it was in trouble often
of late (a device that flaps would otherwise be given work again and again).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

SILENT_SECONDS = 5.0  # a Triton that gives no answer for so long is out
FORGIVEN_SECONDS = 600.0
FLAPPING = 3  # times in trouble within those: then it must prove itself though it answers
PROBE_SECONDS, LONGEST_PROBE_SECONDS = 1.0, 120.0  # pause before a probe; doubles
GOOD_PROBES = 2  # in a row
RECYCLE_EVERY = 2  # failed probes
PROBE_PATIENCE_SECONDS = 180.0  # a probe may have to load a model
RECYCLE_PATIENCE_SECONDS = 180.0


class State(StrEnum):
    """Where it stands; see the header."""

    WELL = "well"
    SUSPECT = "suspect"
    DRAINING = "draining"
    RECYCLING = "recycling"
    OUT = "out"


class Action(StrEnum):
    """What the loop around is to do. All may be done twice."""

    TAKE_BACK = "take back"  # its attempts go to others
    RECYCLE = "recycle"  # its Triton is started anew
    PROBE = "probe"


@dataclass
class Health:
    """One device's. `reason` says why it takes no new work; empty for a well one."""

    state: State = State.WELL
    reason: str = ""
    _since: float = 0.0  # of the state
    _bad_since: float | None = None  # of samples with trouble, in a row
    _gone: bool = False  # by the last sample the driver has no hold of it
    _troubles: list[float] = field(default_factory=list)  # when it got into trouble, of late
    _probing: bool = False
    _next_probe: float = 0.0
    _good: int = 0
    _failures: int = 0

    def sampled(
        self, trouble: str, now: float, *, sure: bool = False, gone: bool = False
    ) -> list[Action]:
        """A report came. `trouble`: what is wrong, or empty; `sure`: waiting makes no difference;
        `gone`: starting its Triton anew would not help."""
        self._gone = gone and bool(trouble)
        if not trouble:
            self._bad_since = None
            if self.state is State.SUSPECT:
                if len(self._troubles) < FLAPPING:
                    self._to(State.WELL, "", now)
                else:
                    self._out(f"in trouble {len(self._troubles)} times of late: {self.reason}", now)
            return []
        if self._bad_since is None:
            self._bad_since = now
            if self.state is State.WELL:
                self._troubles = [t for t in self._troubles if now - t < FORGIVEN_SECONDS]
                self._troubles.append(now)
                self._to(State.SUSPECT, trouble, now)
        if self.state is State.RECYCLING or not (sure or now - self._bad_since >= SILENT_SECONDS):
            return []
        if self.state is not State.OUT:
            self._out(trouble, now)
        self.reason = trouble
        return [Action.TAKE_BACK]

    def keeps_memory(self, reason: str, now: float) -> None:
        """It did not give memory back: what runs may end, then its Triton is started anew."""
        if self.state in (State.WELL, State.SUSPECT):
            self._to(State.DRAINING, reason, now)

    def tick(self, now: float, *, busy: bool) -> list[Action]:
        """What is due. `busy`: something runs, comes or goes there."""
        waited = now - self._since
        match self.state:
            case State.DRAINING if not busy:
                return self._recycle(now)
            case State.RECYCLING if waited > RECYCLE_PATIENCE_SECONDS:
                self.recycled("its Triton was to be started anew, and nothing was heard of it", now)
            case State.OUT if self._probing and now > self._next_probe + PROBE_PATIENCE_SECONDS:
                return self.probed("a probe gave no answer", now)
            case State.OUT if not self._probing and now >= self._next_probe:
                self._probing = True
                return [Action.PROBE]
        return []

    def probed(self, failure: str, now: float) -> list[Action]:
        """A probe ended, well if `failure` is empty."""
        if self.state is not State.OUT or not self._probing:
            return []
        self._probing = False
        if failure:
            self._good = 0
            self._failures += 1
            self.reason = failure
            self._next_probe = now + self._pause(now)
            if self._failures % RECYCLE_EVERY == 0 and not self._gone:
                return self._recycle(now)
            return []
        self._good += 1
        self._next_probe = now + PROBE_SECONDS
        if self._good >= GOOD_PROBES and self._bad_since is None:
            self._failures = 0
            self._to(State.WELL, "", now)
        return []

    def recycled(self, failure: str, now: float) -> None:
        """Its Triton is a new process, or (`failure`) could not be started anew."""
        if self.state is State.RECYCLING:
            self._failures += bool(failure)
            self._out(failure or self.reason, now)
            if not failure:  # most likely it is mended; if not, pauses go on from where they were
                self._next_probe = now + PROBE_SECONDS

    def reconnected(self, now: float) -> None:
        """Its agent is another line now: what was asked on the earlier one is not answered."""
        self._probing = False
        if self.state is State.RECYCLING:
            self._out(self.reason, now)

    def _recycle(self, now: float) -> list[Action]:
        self._to(State.RECYCLING, self.reason, now)
        return [Action.RECYCLE]

    def _out(self, reason: str, now: float) -> None:
        self._to(State.OUT, reason, now)
        self._good, self._probing = 0, False
        self._next_probe = now + self._pause(now)

    def _pause(self, now: float) -> float:
        """Seconds until the next probe: longer by each failure, and by each trouble of late."""
        lately = sum(now - t < FORGIVEN_SECONDS for t in self._troubles)
        doublings = min(self._failures + max(0, lately - 1), 16)
        return float(min(PROBE_SECONDS * 2**doublings, LONGEST_PROBE_SECONDS))

    def _to(self, state: State, reason: str, now: float) -> None:
        self.state, self.reason, self._since = state, reason, now
