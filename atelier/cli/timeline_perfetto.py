"""A timeline as a trace in Chrome's JSON, which ui.perfetto.dev and chrome://tracing open. Pure."""

from __future__ import annotations

from typing import Any

from atelier.cli.timeline_lanes import Lane, Timeline

LOAD_ROW = 0
WAITING = "waiting"


def trace_events(timeline: Timeline) -> dict[str, Any]:
    """A process for each device, with a thread for loads and one for each slot; and who waits."""
    events: list[dict[str, Any]] = [_named("process_name", 1, 0, WAITING)]
    for at, counts in timeline.waiting:
        args = {model: counts.get(model, 0) for model in timeline.models}
        events.append(_event("C", WAITING, at, timeline, pid=1, args=args))
    for number, lane in enumerate(timeline.lanes):
        events += _device(timeline, lane, pid=number + 2)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _device(timeline: Timeline, lane: Lane, pid: int) -> list[dict[str, Any]]:
    events = [_named("process_name", pid, 0, lane.device)]
    events.append(_named("thread_name", pid, LOAD_ROW, "loads and faults"))
    events += [_named("thread_name", pid, n + 1, f"slot {n}") for n in range(lane.slots)]
    for model, span in lane.loads:
        events.append(_event("X", f"load {model}", span.start, timeline, pid=pid, tid=LOAD_ROW,
                             end=span.end, args={"failed": span.failed}))  # fmt: skip
    for span in lane.faults:
        events.append(_event("X", "takes no work", span.start, timeline, pid=pid, tid=LOAD_ROW,
                             end=span.end, args={"why": span.name}))  # fmt: skip
    for block in lane.blocks:
        where = {"pid": pid, "tid": block.slot + 1}
        args = {"generation": block.generation, "attempt": block.attempt, "rows": block.rows,
                "left by": block.left_by}  # fmt: skip
        events.append(_event("X", block.model, block.span.start, timeline, end=block.span.end,
                             args=args, **where))  # fmt: skip
        for phase in block.phases:
            end = min(phase.end, block.span.end)
            if end > phase.start:
                events.append(_event("X", phase.name, phase.start, timeline, end=end, **where))
        if block.left_by:
            events.append(_event("i", block.left_by, block.span.end, timeline, s="t", **where))
    return events


def _event(
    kind: str, name: str, at: float, timeline: Timeline, *, end: float | None = None, **more: Any
) -> dict[str, Any]:
    """Times in microseconds since the timeline's start."""
    event = {"ph": kind, "name": name, "ts": round(1e6 * (at - timeline.start)), **more}
    if end is not None:
        event["dur"] = max(0, round(1e6 * (end - at)))
    return event


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}
