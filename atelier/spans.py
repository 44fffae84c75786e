"""Spans, and the ids that tie them into traces (W3C Trace Context). Pure: standard library only.

A span's id comes from its generation's id and its name, so that whoever knows both can hang more
below it, from any process and after any restart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

ROOT = "generation"  # the name of a generation's outermost span
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True)
class Span:
    """Something that took time: from `start` to `end`, inside `parent` (empty: the trace's root).

    `name` is unique in its trace; `title` is what is shown (the name, where empty). `part`: whose
    time it is. `after`: names of the spans that this one follows from. `error`: its reason, if any.
    """

    name: str
    start: datetime
    end: datetime
    parent: str = ""
    part: str = "scheduler"
    title: str = ""
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    events: Sequence[tuple[datetime, str, Mapping[str, str | int | float]]] = ()
    after: Sequence[str] = ()
    error: str = ""


@dataclass(frozen=True)
class Parent:
    """A caller's span."""

    trace_id: int  # 128 bits
    span_id: int  # 64 bits
    sampled: bool


def parent_of(traceparent: str) -> Parent | None:
    """The caller's span, by its header; None where there is none, or a wrong one: what a caller
    writes there must not cost it its pictures."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    parent = Parent(int(match[1], 16), int(match[2], 16), bool(int(match[3], 16) & 1))
    return parent if parent.trace_id and parent.span_id else None


def trace_id_of(generation_id: str, traceparent: str) -> int:
    """The caller's trace; without one, the generation's id is the id of its trace."""
    parent = parent_of(traceparent)
    return parent.trace_id if parent else UUID(generation_id).int


def about(generation_id: str, tenant: str, traceparent: str) -> dict[str, str]:
    """By what a line of the log is found: the generation, its tenant, its trace. Never fails: an
    agent takes ids as they come, and what is no UUID has no trace."""
    whose = {"generation_id": generation_id, "tenant": tenant}
    try:
        return {**whose, "trace_id": f"{trace_id_of(generation_id, traceparent):032x}"}
    except ValueError:
        return whose


def span_id_of(generation_id: str, name: str) -> int:
    """64 bits, never 0."""
    digest = hashlib.sha256(f"{generation_id} {name}".encode()).digest()
    return int.from_bytes(digest[:8]) or 1
