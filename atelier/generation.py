"""A generation and its life. Pure: standard library only.

The state machine is the table below; the SQL guards (`generation_store`) and the diagram
(docs/states.md) come from it. RUNNING is entered only with a fresh lease_token, and every later
write about the attempt must carry that token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from atelier.spec import Spec


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


IN_VAIN = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})
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
    Transition(State.QUEUED, Event.FAIL, State.FAILED, "its model fails to load, again and again"),
    Transition(State.RUNNING, Event.PUBLISH, State.SUCCEEDED, "its agent, results uploaded"),
    Transition(State.RUNNING, Event.FAIL, State.FAILED, "its agent, and no attempt is left"),
    Transition(State.RUNNING, Event.CANCEL, State.CANCELLED, "its agent, at a step boundary"),
    Transition(State.RUNNING, Event.EXPIRE, State.EXPIRED, "sysmon, past its deadline"),
    Transition(State.RUNNING, Event.REQUEUE, State.QUEUED, "preempted, lost, or a retry helps"),
)


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


MAX_ATTEMPTS = 5  # an attempt lost with its agent counts; after five the fault is in the work
MAX_EXCUSED = 30  # attempts that failed by a part that was away do not count, but end somewhere


@dataclass(frozen=True)
class Result:
    """One picture or video that was made and uploaded; `sha256` in lower-case hexadecimal.

    frames, frames_per_second and codec are a video's: 0 and empty for a picture.
    """

    index: int
    object_key: str
    content_type: str
    size_bytes: int
    width: int
    height: int
    sha256: str
    seed: int
    frames: int = 0
    frames_per_second: float = 0.0
    codec: str = ""
    thumbnail_key: str = ""  # empty: there is none
    withheld: bool = False  # by the safety checker: there is no file


@dataclass(frozen=True)
class Provenance:
    """What made the results."""

    model_version: str
    engine: str
    sampler: str
    device: str


@dataclass(frozen=True)
class Failure:
    """Why there are no results, as the caller may read it."""

    code: str
    reason: str
    message: str


@dataclass(frozen=True)
class Generation:
    """A durable request for pictures or a video: one row of the table `generations`."""

    id: str
    tenant: str
    model: str
    spec: Spec
    create_time: datetime
    state: State = State.QUEUED
    attempt: int = 0
    lease_token: int | None = None
    device: str = ""
    priority: Priority = Priority.NORMAL
    deadline: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    request_hash: bytes = b""
    cancel_requested: bool = False
    start_time: datetime | None = None
    finish_time: datetime | None = None
    results: tuple[Result, ...] = ()
    failure: Failure | None = None
    provenance: Provenance | None = None
    webhook_url: str = ""  # where its end is told; "": to its tenant's webhooks alone
    preset: str = ""  # the one that it took values from, with its version; "": none
    trace_parent: str = ""  # the caller's span (W3C traceparent); "": none


def new_id(now_seconds: float, random_bits: int) -> str:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits.

    Ids sort by the time of their making, which keeps index pages warm and lists in order.
    """
    milliseconds = int(now_seconds * 1000) & (2**48 - 1)
    value = milliseconds << 80 | 0x7 << 76 | (random_bits >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random_bits & (2**62 - 1)
    return str(UUID(int=value))


def lowest_id(moment: datetime) -> str:
    """The lowest UUIDv7 of a moment; the lowest or the highest of all where there is none."""
    milliseconds = math.floor(moment.timestamp() * 1000)
    return str(UUID(int=min(max(milliseconds, 0), 2**48 - 1) << 80))
