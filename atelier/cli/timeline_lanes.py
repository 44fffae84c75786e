"""What devices did over time: lanes of blocks, out of the scheduler's moments. Pure.

A block is an attempt while it holds its device; those that run together lie in slots above each
other, so a lane's height at an instant is the batch's.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from atelier.cli.life import BOTH, PREEMPTED, Life, Span, build, loads, seconds
from atelier.v1 import fleet_pb2 as pb

LOADS, FINAL_UPLOAD = "load", (BOTH, "encode", "upload", "publish")
MOST_LANES = 200
FEW_LANES = 24  # up to so many, those that did nothing are told, too


@dataclass(frozen=True)
class Block:
    """An attempt while it holds its device. `left_by`: why it gave it back without results."""

    generation: str
    model: str
    attempt: int
    rows: int
    span: Span
    phases: tuple[Span, ...]
    left_by: str = ""
    slot: int = 0

    @property
    def preempted(self) -> bool:
        return self.left_by == PREEMPTED

    @property
    def failed(self) -> bool:
        return bool(self.left_by) and not self.preempted


@dataclass
class Lane:
    """One device's time."""

    device: str
    blocks: list[Block] = field(default_factory=list)
    loads: list[tuple[str, Span]] = field(default_factory=list)  # model, when
    faults: list[Span] = field(default_factory=list)

    @property
    def slots(self) -> int:
        return max((block.slot for block in self.blocks), default=0) + 1

    def shares(self, start: float, end: float) -> tuple[float, float, float]:
        """Of that time: running anything, else loading, else idle; together 1."""
        whole = max(1e-9, end - start)
        running = [block.span for block in self.blocks]
        busy = covered(running, start, end) / whole
        either = covered([*running, *(span for _, span in self.loads)], start, end) / whole
        return busy, either - busy, 1 - either


@dataclass
class Timeline:
    """From `start` to `end`, in seconds since 1970. `waiting`: how many from each instant on, by
    model. `left_out`: lanes that are not here."""

    start: float
    end: float
    lanes: list[Lane]
    waiting: list[tuple[float, dict[str, int]]]
    models: list[str]
    missed: int = 0
    left_out: int = 0


def timeline(
    moments: Sequence[pb.Moment],
    devices: Iterable[str],
    now: float,
    *,
    last_seconds: float | None = None,
    missed: int = 0,
) -> Timeline:
    """All that the moments tell; of it, the last so many seconds."""
    first = min((seconds(moment) for moment in moments), default=now)
    start = first if last_seconds is None else max(first, now - last_seconds)
    lives = _lives(moments, now)
    lanes = {device: Lane(device) for device in devices}
    for life in lives:
        for device, block in _blocks(life):
            if block.span.end >= start:
                lanes.setdefault(device, Lane(device)).blocks.append(block)
    for device, model, span in loads(moments, now):
        if span.end >= start:
            lanes.setdefault(device, Lane(device)).loads.append((model, span))
    for device, span in _faults(moments, now):
        if span.end >= start:
            lanes.setdefault(device, Lane(device)).faults.append(span)
    for lane in lanes.values():
        lane.blocks = _slotted(lane.blocks)
    ordered = [lanes[device] for device in sorted(lanes)]
    told = ordered
    if len(ordered) > FEW_LANES:
        told = [lane for lane in ordered if lane.blocks or lane.loads or lane.faults]
    told = told[:MOST_LANES]
    models = {life.model for life in lives} | {m for lane in told for m, _ in lane.loads}
    left_out = len(ordered) - len(told)
    return Timeline(start, now, told, _waiting(lives, start), sorted(models), missed, left_out)


def covered(spans: Iterable[Span], start: float, end: float) -> float:
    """Seconds from start to end in which at least one of them lasts."""
    total, until = 0.0, start
    for span in sorted(spans, key=lambda one: one.start):
        begin, stop = max(span.start, until), min(span.end, end)
        if stop > begin:
            total += stop - begin
            until = stop
    return total


def _lives(moments: Sequence[pb.Moment], now: float) -> list[Life]:
    by_id: dict[str, list[pb.Moment]] = defaultdict(list)
    for moment in moments:
        if moment.generation_id:
            by_id[moment.generation_id].append(moment)
    return [build(own, generation_id, now) for generation_id, own in by_id.items()]


def _blocks(life: Life) -> Iterable[tuple[str, Block]]:
    for attempt in life.attempts:
        if attempt.began is None or not attempt.device:
            continue
        end = life.end if attempt.ended is None else attempt.ended
        phases = tuple(span for span in attempt.phases(life.end) if span.name not in FINAL_UPLOAD)
        uploads = [at for name, at in attempt.marks if name in FINAL_UPLOAD]
        end = min([end, *uploads])  # its device is given back before it is uploaded
        span = Span(life.model, attempt.began, end, bool(attempt.left_by))
        yield (
            attempt.device,
            Block(
                life.id,
                life.model,
                attempt.number,
                max(1, life.count),
                span,
                phases,
                attempt.left_by,
            ),
        )


def _slotted(blocks: Sequence[Block]) -> list[Block]:
    """Each in the lowest slot that is free when it begins."""
    free: list[int] = []
    held: list[tuple[float, int]] = []
    placed, slots = [], 0
    for block in sorted(blocks, key=lambda one: one.span.start):
        while held and held[0][0] <= block.span.start:
            heapq.heappush(free, heapq.heappop(held)[1])
        if free:
            slot = heapq.heappop(free)
        else:
            slot, slots = slots, slots + 1
        heapq.heappush(held, (block.span.end, slot))
        placed.append(replace(block, slot=slot))
    return placed


def _faults(moments: Iterable[pb.Moment], now: float) -> Iterable[tuple[str, Span]]:
    """When devices took no work, and why."""
    since: dict[str, tuple[float, str]] = {}
    for moment in moments:
        if moment.kind != pb.MOMENT_KIND_DEVICE:
            continue
        if moment.device_id in since:
            start, reason = since.pop(moment.device_id)
            yield moment.device_id, Span(reason, start, seconds(moment), failed=True)
        if moment.failed:
            since[moment.device_id] = seconds(moment), moment.reason
    for device, (start, reason) in since.items():
        yield device, Span(reason, start, now, failed=True)


def _waiting(lives: Iterable[Life], start: float) -> list[tuple[float, dict[str, int]]]:
    """How many wait, by model, from each change on; the first at `start`."""
    changes: list[tuple[float, str, int]] = []
    for life in lives:
        for attempt in life.attempts:
            if attempt.queued is None:
                continue
            changes.append((attempt.queued, life.model, 1))
            until = attempt.began if attempt.began is not None else attempt.ended
            if until is not None:
                changes.append((until, life.model, -1))
    now: dict[str, int] = defaultdict(int)
    found: list[tuple[float, dict[str, int]]] = [(start, {})]
    for at, model, change in sorted(changes):
        now[model] += change
        found.append((max(start, at), dict(now)))
        if at <= start:
            found = [(start, dict(now))]
    return found
