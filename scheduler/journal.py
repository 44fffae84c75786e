"""What happened to devices and generations, moment by moment: for timelines and waterfalls.

A ring, as recent.py has of decisions, for the instants that no decision tells: when an attempt went
on to its next phase, when a load was over, when a device was lost. It is told where all of them
pass by (watchers, dispatch, reports, fleet), and told nothing twice: a step is not a moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

from atelier.generation import Generation, State
from scheduler.decisions import Bind, Hold, Load, Preempt, Reject, Unload

KEPT = 20_000  # moments: eight a generation, two a load; some 6 MB


class Kind(StrEnum):
    """What happened."""

    QUEUED = "QUEUED"
    BOUND = "BOUND"
    RUNNING = "RUNNING"
    PHASE = "PHASE"
    PREEMPTING = "PREEMPTING"
    ENDED = "ENDED"
    LOADING = "LOADING"
    LOADED = "LOADED"
    UNLOADED = "UNLOADED"
    DEVICE = "DEVICE"
    PUBLISHING = "PUBLISHING"


@dataclass(frozen=True, slots=True)
class Moment:
    """One; what does not apply to its kind is empty. `phase` is a number of generation.proto."""

    sequence: int
    time: datetime
    kind: Kind
    device: str = ""
    model: str = ""
    generation: str = ""
    attempt: int = 0
    phase: int = 0
    state: State | None = None
    reason: str = ""
    rows: int = 0
    steps: int = 0
    failed: bool = False
    seconds: float = 0.0  # of PUBLISHING: of the phase before it, those that encoding took


class Listener(Protocol):
    """Hears each moment as it is noted, and what is too small to be one."""

    def reached(self, generation_id: str) -> None: ...
    def hear(self, moment: Moment) -> None: ...
    def stepped(self, generation_id: str, step: int, seconds: float) -> None: ...
    def ended(self, row: Generation) -> None: ...


class Journal:
    """Written by the scheduler's loops; read by anybody."""

    def __init__(self, wall: Callable[[], datetime], kept: int = KEPT) -> None:
        self.last = 0  # number of the latest moment
        self.listener: Listener | None = None
        self._wall = wall
        self._ring: deque[Moment] = deque(maxlen=kept)
        self._doing: dict[str, tuple[int, int]] = {}  # attempt and phase of what runs, by id
        self._left: dict[str, str] = {}  # why an attempt ended, until its generation is queued

    def stood(self, row: Generation) -> None:
        """The database agreed: it waits, runs or has ended."""
        about: dict[str, Any] = {"generation": row.id, "model": row.model}
        if row.state is State.QUEUED:
            time = min(row.create_time, self._wall()) if row.attempt == 0 else None
            reason = self._left.pop(row.id, "")
            self._note(Kind.QUEUED, time, **about, attempt=row.attempt + 1, reason=reason)
            self._doing.pop(row.id, None)
        elif row.state is State.RUNNING:
            if row.id not in self._doing or self._doing[row.id][0] != row.attempt:
                self._doing[row.id] = (row.attempt, 0)
                self._note(Kind.RUNNING, **about, attempt=row.attempt, device=row.device,
                           rows=row.spec.count, steps=row.spec.run_steps)  # fmt: skip
        else:
            reason = row.failure.reason if row.failure else ""
            self._note(Kind.ENDED, **about, attempt=row.attempt, device=row.device,
                       state=row.state, reason=reason)  # fmt: skip
            self._doing.pop(row.id, None)
            self._left.pop(row.id, None)
            if self.listener is not None:
                self.listener.ended(row)

    def progressed(self, row: Generation, phase: int) -> None:
        """Its agent told what it does; the same again is nothing new."""
        if self._doing.get(row.id) == (row.attempt, phase) or row.state is not State.RUNNING:
            return
        self._doing[row.id] = (row.attempt, phase)
        self._note(
            Kind.PHASE, generation=row.id, model=row.model, attempt=row.attempt,
            device=row.device, phase=phase, rows=row.spec.count, steps=row.spec.run_steps,
        )  # fmt: skip

    def left(self, generation_id: str, reason: str) -> None:
        """Why the attempt ended, after which it is queued again."""
        self._left[generation_id] = reason

    def decided(self, decision: Bind | Preempt | Load | Unload | Hold | Reject) -> None:
        """The core's decisions, as far as a device's time follows from them."""
        match decision:
            case Bind(ticket, device, reason) | Preempt(ticket, device, reason):
                kind = Kind.BOUND if isinstance(decision, Bind) else Kind.PREEMPTING
                self._note(kind, generation=ticket.id, model=ticket.model, device=device,
                           reason=reason)  # fmt: skip
            case Load(model, device, _, reason):
                self._note(Kind.LOADING, model=model, device=device, reason=reason)
            case _:
                pass

    def changed(self, device: str, model: str, *, resident: bool, reason: str = "") -> None:
        """A load or an unload ended. `reason`: why it failed, where it did."""
        kind = Kind.LOADED if resident or reason else Kind.UNLOADED
        self._note(kind, device=device, model=model, reason=reason, failed=bool(reason))

    def quarantined(self, device: str, reason: str) -> None:
        """It takes no work any more; or again, where there is no reason."""
        self._note(Kind.DEVICE, device=device, reason=reason, failed=bool(reason))

    def published(self, generation_id: str, encode_seconds: float = 0.0) -> None:
        """Its agent told of results, and how long it encoded them; the database is asked to take
        them."""
        self._note(Kind.PUBLISHING, generation=generation_id, seconds=encode_seconds)

    def of(self, generation_id: str) -> list[Moment]:
        """The moments of one generation that are still kept, the oldest first, and with them the
        loads of its model on its devices."""
        own = [moment for moment in self._ring if moment.generation == generation_id]
        places = {(moment.device, moment.model) for moment in own if moment.device}
        return [
            moment
            for moment in self._ring
            if moment.generation == generation_id
            or (
                moment.kind in (Kind.LOADING, Kind.LOADED)
                and (moment.device, moment.model) in places
            )
        ]

    def since(self, sequence: int, limit: int) -> tuple[int, list[Moment]]:
        """How many after that number are kept no more; then the next ones, at most `limit`."""
        first = self._ring[0].sequence if self._ring else self.last + 1
        missed = max(0, first - sequence - 1)
        start = min(max(0, sequence + 1 - first), len(self._ring))
        return missed, list(islice(self._ring, start, start + limit))

    def _note(self, kind: Kind, time: datetime | None = None, **about: Any) -> None:
        """Keep it; `about`: the fields of a Moment that apply."""
        self.last += 1
        moment = Moment(self.last, time or self._wall(), kind, **about)
        self._ring.append(moment)
        if self.listener is not None:
            self.listener.hear(moment)
