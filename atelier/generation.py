"""A generation and its life. Pure: standard library only.

The state machine is the table below; the SQL guards (`generation_store`), the diagram
(docs/states.md) and `advance` all come from it. RUNNING is entered only with a fresh lease_token,
and every later write about the attempt must carry that token.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a generation stands."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})


class Event(StrEnum):
    """What moves it."""

    CLAIM = "claim"
    REQUEUE = "requeue"
    PUBLISH = "publish"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"


@dataclass(frozen=True)
class Transition:
    """One arrow of the state machine, and who draws it."""

    source: State
    event: Event
    target: State
    by: str


TRANSITIONS = (
    Transition(State.QUEUED, Event.CLAIM, State.RUNNING, "sched binds it to a device"),
    Transition(State.QUEUED, Event.CANCEL, State.CANCELLED, "its caller"),
    Transition(State.QUEUED, Event.EXPIRE, State.EXPIRED, "sysmon, past its deadline"),
    Transition(State.QUEUED, Event.FAIL, State.FAILED, "no device of the fleet can ever run it"),
    Transition(State.RUNNING, Event.PUBLISH, State.SUCCEEDED, "its agent, results uploaded"),
    Transition(State.RUNNING, Event.FAIL, State.FAILED, "its agent, and no attempt is left"),
    Transition(State.RUNNING, Event.CANCEL, State.CANCELLED, "its agent, at a step boundary"),
    Transition(State.RUNNING, Event.EXPIRE, State.EXPIRED, "sysmon, past its deadline"),
    Transition(State.RUNNING, Event.REQUEUE, State.QUEUED, "its agent is lost, or a retry helps"),
)

_TABLE = {(t.source, t.event): t.target for t in TRANSITIONS}


def advance(state: State, event: Event) -> State | None:
    """The state after `event`, or None where the table has no such arrow."""
    return _TABLE.get((state, event))


def sources(event: Event) -> tuple[State, ...]:
    """The states that `event` may leave: the guard of its UPDATE."""
    return tuple(t.source for t in TRANSITIONS if t.event is event)


class Priority(StrEnum):
    """How urgent; the class number is the scheduler's, higher is served first."""

    BATCH = "BATCH"
    NORMAL = "NORMAL"
    INTERACTIVE = "INTERACTIVE"

    @property
    def level(self) -> int:
        return {"BATCH": 0, "NORMAL": 1, "INTERACTIVE": 2}[self.value]


MAX_ATTEMPTS = 3  # an attempt lost with its agent counts; after three the fault is in the work
