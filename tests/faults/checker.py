"""Proves the promises (docs/promises.md, P1 to P6, P12) of what a run left behind: what clients and
a receiver were told, the rows and events of the database, the objects of the store. Pure.

When it is asked, every fault is healed and nothing is under way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from atelier.generation import FINAL, State
from tests.faults.history import FAIL, OK, UNKNOWN, Told

_ENDS = {
    "publish": State.SUCCEEDED,
    "fail": State.FAILED,
    "cancel": State.CANCELLED,
    "expire": State.EXPIRED,
}


@dataclass(frozen=True)
class File:
    """Of a result: where it lies, and what the row says of it."""

    key: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Row:
    """A generation, as the database has it."""

    id: str
    request_id: str
    state: str
    attempt: int
    results: tuple[File, ...] = ()


@dataclass(frozen=True)
class Happened:
    """A line of generation_events. `at`: seconds, by the database's clock."""

    id: str
    seq: int
    event: str
    attempt: int
    at: float


@dataclass
class Evidence:
    """All of it.

    objects: key -> (bytes, SHA-256 in hexadecimal) as they were read.
    heard: the ends that a receiver of webhooks was told of, as (generation, state).
    refused: how often a lost attempt's write, and a deposed leader's, was seen to be refused.
    """

    told: Sequence[Told]
    rows: Sequence[Row]
    events: Sequence[Happened]
    objects: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    heard: Collection[tuple[str, str]] = ()
    refused: Mapping[str, int] = field(default_factory=dict)


def complaints(evidence: Evidence) -> list[str]:
    """Each promise that was not kept, with who it was not kept to."""
    rows = {row.id: row for row in evidence.rows}
    return [
        *_lost(evidence, rows),
        *_keys(evidence),
        *_published(evidence),
        *_lives(evidence, rows),
        *_seen(evidence, rows),
        *_cancelled(evidence, rows),
        *_told(evidence),
    ]


def lost(evidence: Evidence) -> int:
    """Acknowledged generations that are not there, or have not ended."""
    rows = {row.id: row for row in evidence.rows}
    return len(set(_unkept(evidence, rows)))


def published_twice(evidence: Evidence) -> int:
    """Generations with more than one result published."""
    return sum(times > 1 for times in _publishes(evidence).values())


def acknowledged(evidence: Evidence) -> set[str]:
    return {t.id for t in evidence.told if t.call == "create" and t.phase == OK}


def _unkept(evidence: Evidence, rows: Mapping[str, Row]) -> Iterator[str]:
    for name in acknowledged(evidence):
        if name not in rows or State(rows[name].state) not in FINAL:
            yield name


def _lost(evidence: Evidence, rows: Mapping[str, Row]) -> Iterator[str]:
    for name in sorted(_unkept(evidence, rows)):
        state = rows[name].state if name in rows else "gone"
        yield f"P1: {name} was acknowledged, and is {state}"
    known = acknowledged(evidence)
    for row in rows.values():
        if row.id not in known and State(row.state) not in FINAL:
            yield f"P1: {row.id} is {row.state} after all was well again"


def _keys(evidence: Evidence) -> Iterator[str]:
    ids, stands, calls = defaultdict(set), defaultdict(set), defaultdict(set)
    for told in evidence.told:
        if told.call == "create":
            calls[told.key].add(told.phase)
            if told.phase == OK:
                ids[told.key].add(told.id)
    for row in evidence.rows:
        stands[row.request_id].add(row.id)
    for key, phases in calls.items():
        if len(ids[key] | stands[key]) > 1:
            yield f"P2: {key} is {sorted(ids[key] | stands[key])}"
        if FAIL in phases and not phases & {OK, UNKNOWN} and stands[key]:
            yield f"P2: {key} was refused, and {sorted(stands[key])} was made"
    for key in stands.keys() - calls.keys():
        yield f"P2: nobody asked for {key}"


def _publishes(evidence: Evidence) -> dict[str, int]:
    times: dict[str, int] = defaultdict(int)
    for event in evidence.events:
        times[event.id] += event.event == "publish"
    return times


def _published(evidence: Evidence) -> Iterator[str]:
    times = _publishes(evidence)
    for row in evidence.rows:
        if times.get(row.id, 0) != (row.state == State.SUCCEEDED):
            yield f"P3: {row.id} is {row.state}, and was published {times.get(row.id, 0)} times"
        if row.state == State.SUCCEEDED and not row.results:
            yield f"P3: {row.id} succeeded without a result"
        for file in row.results:
            if file.key not in evidence.objects:
                yield f"P3: {row.id}: nothing lies under {file.key}"
            elif evidence.objects[file.key] != (file.size_bytes, file.sha256):
                yield f"P3: {row.id}: {file.key} is {evidence.objects[file.key]}, told was {file}"


def _lives(evidence: Evidence, rows: Mapping[str, Row]) -> Iterator[str]:
    """The events of each tell its whole life, without a gap, up to what it is."""
    of: dict[str, list[Happened]] = defaultdict(list)
    for event in evidence.events:
        of[event.id].append(event)
    for name, row in rows.items():
        events = sorted(of[name], key=lambda event: event.seq)
        state, attempt = "", 0
        for event in events:
            if event.event == "claim":
                attempt += 1
            after = _after(state, event.event)
            if not after or event.attempt != attempt:
                told = [(e.event, e.attempt) for e in events]
                yield f"P5: {name}: {event.event} of attempt {event.attempt} after {state}: {told}"
                break
            state = after
        else:
            if (state, attempt) != (row.state, row.attempt):
                yield f"P5: {name}: its events end as {state} {attempt}, it is {row}"


def _after(state: str, event: str) -> str:
    """The state that follows; empty where the event cannot come then."""
    match state, event:
        case "", "submit":
            return State.QUEUED
        case State.QUEUED, "claim":
            return State.RUNNING
        case State.RUNNING, "requeue":
            return State.QUEUED
        case State.RUNNING, "cancel_requested":
            return state
        case State.QUEUED, "publish":
            return ""
        case ((State.QUEUED | State.RUNNING), _):
            return _ENDS.get(event, "")
    return ""


def _seen(evidence: Evidence, rows: Mapping[str, Row]) -> Iterator[str]:
    """What a client was told of an end is what stands."""
    for told in evidence.told:
        if told.phase != OK or told.state not in FINAL or told.id not in rows:
            continue
        row = rows[told.id]
        if told.state != row.state:
            yield f"P5: {told.id} was {told.state} to {told.client}, and is {row.state}"
        keys = tuple(file.key for file in row.results)
        if told.result_keys and told.result_keys != keys:
            yield f"P3: {told.id}: {told.client} saw {told.result_keys}, published is {keys}"


def _cancelled(evidence: Evidence, rows: Mapping[str, Row]) -> Iterator[str]:
    claims: dict[str, float] = defaultdict(float)
    for event in evidence.events:
        if event.event == "claim":
            claims[event.id] = max(claims[event.id], event.at)
    for told in evidence.told:
        if told.call == "cancel" and told.phase == OK and claims[told.id] > told.at:
            yield f"P6: {told.id} was claimed after its cancel was acknowledged"


def _told(evidence: Evidence) -> Iterator[str]:
    """A webhook that was there before all of them is told of each end, and of no other."""
    heard = set(evidence.heard)
    ends = {(row.id, row.state) for row in evidence.rows if State(row.state) in FINAL}
    for name, state in sorted(ends - heard):
        yield f"P12: nobody was told that {name} is {state}"
    for name, state in sorted(heard - ends):
        yield f"P12: a receiver was told that {name} is {state}"
