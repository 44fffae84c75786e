"""The trace of a generation, made of what was kept of it. Pure.

Its spans follow each other without a gap, so that their times add up to what the caller waited:

    generation       root: from the call to the final state
      admitted       gateway: read, checked, sent on; store: until it was durable
      queued         with the loads of its model that it waited for, and why it was bound where
      attempt        encode text, denoise (an event each step), decode, encode, upload, publish
      queued         it was preempted, or is tried again: follows from the attempt before
      attempt        ...
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

from atelier.generation import Generation, State
from atelier.spans import ROOT, Span
from scheduler.journal import Kind, Moment

# What an attempt does, by the number of its phase (generation.proto).
PHASES = {3: "encode text", 4: "denoise", 5: "decode", 6: "upload"}


@dataclass(frozen=True)
class Load:
    """A model's, on a device."""

    device: str
    model: str
    start: datetime
    end: datetime
    failed: bool


@dataclass
class Story:
    """What was kept of a generation. `known`: since when."""

    known: datetime
    moments: list[Moment] = field(default_factory=list)
    steps: list[tuple[datetime, int, float]] = field(default_factory=list)
    earlier: bool = False  # another scheduler led when it came
    reached: datetime | None = None  # when its gateway's message came; None: not known


def spans_of(row: Generation, story: Story, loads: Iterable[Load]) -> list[Span]:
    """The root first; the last moment is the end."""
    end = max(story.moments[-1].time, row.create_time)
    bad = row.state in (State.FAILED, State.EXPIRED)
    reason = (row.failure.reason if row.failure else row.state.value) if bad else ""
    root = Span(ROOT, row.create_time, end, attributes=_about(row), error=reason)
    known = min(max(story.known, row.create_time), end)
    title = "under another scheduler" if story.earlier else "admitted"
    spans = [root, Span("admitted", row.create_time, known, ROOT, title=title)]
    if story.reached and not story.earlier:
        reached = min(max(story.reached, row.create_time), known)  # a gateway has its own clock
        spans.append(Span("gateway", row.create_time, reached, "admitted", "gateway"))
        spans.append(Span("store", reached, known, "admitted"))
    for part in _parts(story, known, end, reason):
        spans += [part, *_below(part, row, story, loads)]
    return spans


def _about(row: Generation) -> dict[str, str | int]:
    spec = row.spec
    return {
        "atelier.tenant": row.tenant,
        "atelier.model": row.model,
        "atelier.shape": spec.shape,
        "atelier.count": spec.count,
        "atelier.steps": spec.run_steps,
        "atelier.priority": row.priority.value,
        "atelier.state": row.state.value,
        "atelier.attempts": row.attempt,
    }


def _parts(story: Story, known: datetime, end: datetime, reason: str) -> list[Span]:
    """Its waits and attempts, one after the other."""
    parts: list[Span] = []
    attempts: list[str] = []
    for moment in story.moments:
        at = max(moment.time, known)
        if moment.kind is Kind.QUEUED:
            _close(parts, at, moment.reason)
            name = f"queued {moment.attempt}"
            parts.append(Span(name, at, end, ROOT, title="queued", after=attempts[-1:]))
        elif moment.kind is Kind.BOUND and parts and parts[-1].title == "queued":
            about = {"atelier.device": moment.device, "atelier.why": moment.reason}
            bound = (at, "bound", about)
            parts[-1] = replace(parts[-1], attributes=about, events=[*parts[-1].events, bound])
        elif moment.kind is Kind.RUNNING:
            _close(parts, at)
            name = f"attempt {moment.attempt}"
            about = {"atelier.device": moment.device}
            parts.append(Span(name, at, end, ROOT, "agent", "attempt", about, after=attempts[-1:]))
            attempts.append(name)
    _close(parts, end, reason)
    return parts


def _close(parts: list[Span], at: datetime, error: str = "") -> None:
    if parts:
        error = error if parts[-1].title == "attempt" else ""
        parts[-1] = replace(parts[-1], end=at, error=error)


def _below(part: Span, row: Generation, story: Story, loads: Iterable[Load]) -> list[Span]:
    if part.title == "queued":
        device = part.attributes.get("atelier.device")
        return [
            Span(
                f"load {number} of {part.name}", load.start, load.end, part.name, "agent", "load",
                {"atelier.model": load.model, "atelier.device": load.device},
                error="LOAD_FAILED" if load.failed else "",
            )
            for number, load in enumerate(loads)
            if (load.model, load.device) == (row.model, device)
            and part.start < load.end <= part.end
        ]  # fmt: skip
    return _phases(part, story)


def _phases(part: Span, story: Story) -> list[Span]:
    """Of one attempt, as far as its agent told of them."""
    number = part.name.removeprefix("attempt ")
    found = [
        (PHASES[moment.phase], moment.time)
        for moment in story.moments
        if moment.kind is Kind.PHASE and moment.attempt == int(number) and moment.phase in PHASES
    ]
    publishing = [m for m in story.moments if m.kind is Kind.PUBLISHING]
    for told in publishing[-1:]:
        if part.start <= told.time <= part.end:
            found = [*_with_encoding(found, told), ("publish", told.time)]
    phases = []
    for (name, start), (_, stop) in pairwise([*found, ("", part.end)]):
        mine = [step for step in story.steps if name == "denoise" and start <= step[0] <= stop]
        events = [(at, "step", {"step": step, "seconds": took}) for at, step, took in mine]
        where = "scheduler" if name == "publish" else "agent"
        phases.append(Span(f"{name} {number}", start, stop, part.name, where, name, events=events))
    return phases


def _with_encoding(found: list[tuple[str, datetime]], told: Moment) -> list[tuple[str, datetime]]:
    """The last phase is encoding and uploading, by turns where there are several results or a clip:
    told as if one came after the other. As it was where the agent did not measure."""
    if not told.seconds or not found or found[-1][0] != "upload":
        return found
    began = found[-1][1]
    encoded = min(began + timedelta(seconds=told.seconds), told.time)
    return [*found[:-1], ("encode", began), ("upload", encoded)]
