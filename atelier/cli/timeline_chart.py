"""A timeline as shapes on a sheet: what the page and the picture both draw. Pure.

Sizes are in pixels of the sheet. A shape with a `span` lies on the time axis, and says so: the page
moves it when it is zoomed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil, floor, log10

from atelier.cli.timeline_lanes import Block, Lane, Timeline

WIDTH, LEFT, RIGHT = 1400.0, 190.0, 20.0
TOP, WAIT_HEIGHT, GAP = 84.0, 70.0, 14.0
LANE_HEIGHT, LOAD_HEIGHT = 92.0, 12.0  # of all slots together; of the strip of loads above them
INK, FAINT, GRID, PAPER, IDLE = "#1f2933", "#66727f", "#e1e6eb", "#ffffff", "#eef1f4"
FAULT, PREEMPTED, LOADING = "#d62728", "#e0a100", "#8a97a6"
# Told apart in print and by most eyes; red is left to faults.
PALETTE = (
    "#3b6fb6", "#e8833a", "#3f9b5f", "#8d62b3", "#5bb5c1", "#b88a3c", "#c06fa5", "#6b7a8f",
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A rectangle. `tip`: what it is, for who points at it."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    tip: str = ""
    span: tuple[float, float] | None = None  # seconds from the timeline's start
    opacity: float = 1.0
    hatched: bool = False
    kind: str = ""


@dataclass(frozen=True)
class Words:
    """A line of text; `y` is its base line."""

    x: float
    y: float
    text: str
    size: float = 12.0
    fill: str = INK
    bold: bool = False
    anchor: str = "start"  # or "middle", "end"
    kind: str = ""


Shape = Box | Words


@dataclass(frozen=True)
class Chart:
    """The sheet."""

    width: float
    height: float
    shapes: list[Shape]
    seconds: float


def chart(timeline: Timeline) -> Chart:
    """All shapes, those behind first."""
    sheet = _Sheet(timeline)
    return Chart(WIDTH, sheet.height, list(sheet.shapes()), sheet.seconds)


class _Sheet:
    def __init__(self, timeline: Timeline) -> None:
        self._line = timeline
        self.seconds = max(1e-3, timeline.end - timeline.start)
        self._per_second = (WIDTH - LEFT - RIGHT) / self.seconds
        self._colour = {m: PALETTE[i % len(PALETTE)] for i, m in enumerate(timeline.models)}
        self._lanes_top = TOP + WAIT_HEIGHT + 2 * GAP
        step = LOAD_HEIGHT + LANE_HEIGHT + GAP
        self._tops = [self._lanes_top + step * number for number in range(len(timeline.lanes))]
        self._bottom = self._lanes_top + step * len(timeline.lanes)
        self.height = self._bottom + 46

    def shapes(self) -> Iterator[Shape]:
        yield Box(0, 0, WIDTH, self.height, PAPER)
        yield from self._title()
        yield from self._grid()
        yield from self._waits()
        for top, lane in zip(self._tops, self._line.lanes, strict=True):
            yield from self._lane(top, lane)

    def _x(self, at: float) -> float:
        return LEFT + min(max(0.0, at - self._line.start), self.seconds) * self._per_second

    def _box(
        self, start: float, end: float, y: float, height: float, fill: str, tip: str = "", *,
        opacity: float = 1.0, hatched: bool = False, kind: str = "", least: float = 1.0,
    ) -> Box:  # fmt: skip
        x = self._x(start)
        width = max(least, self._x(end) - x)
        span = (start - self._line.start, end - self._line.start)
        return Box(x, y, width, height, fill, tip, span, opacity, hatched, kind)

    def _title(self) -> Iterator[Shape]:
        line = self._line
        began = datetime.fromtimestamp(line.start, UTC)
        yield Words(24, 34, "What the devices did", 20, bold=True)
        told = f"{began:%Y-%m-%d %H:%M:%S} UTC, {self.seconds:.1f} s"
        if line.left_out:
            told += f"; {line.left_out} more devices are left out"
        if line.missed:
            told += f"; {line.missed} earlier moments are forgotten"
        yield Words(24, 54, told, 12, FAINT)
        x = LEFT
        named: list[tuple[str, str, bool]] = [(m, self._colour[m], False) for m in line.models]
        named += [("load", LOADING, True), ("preempted", PREEMPTED, False),
                  ("fault", FAULT, False), ("idle", IDLE, False)]  # fmt: skip
        for name, fill, hatched in named:
            yield Box(x, 64, 12, 12, fill, hatched=hatched)
            yield Words(x + 17, 74, name, 12)
            x += 34 + 7.0 * len(name)

    def _grid(self) -> Iterator[Shape]:
        step = nice_step(self.seconds / 10)
        for number in range(floor(self.seconds / step) + 1):
            at = self._line.start + number * step
            x = self._x(at)
            yield Box(x, TOP, 1, self._bottom - TOP, GRID, kind="grid")
            text = f"{number * step:g} s"
            yield Words(x, self._bottom + 16, text, 11, FAINT, anchor="middle", kind="tick")

    def _waits(self) -> Iterator[Shape]:
        """How many wait, by model, one upon the other."""
        changes = self._line.waiting
        most = max((sum(counts.values()) for _, counts in changes), default=0)
        base = TOP + WAIT_HEIGHT
        yield Words(24, TOP + 26, "waiting", 13, bold=True)
        yield Words(24, TOP + 43, f"{most} at most", 11, FAINT)
        yield Box(LEFT, base, WIDTH - LEFT - RIGHT, 1, FAINT)
        if not most:
            return
        ends = [at for at, _ in changes[1:]] + [self._line.end]
        for (start, counts), end in zip(changes, ends, strict=True):
            if end <= start:
                continue
            y = base
            tip = ", ".join(f"{n} wait for {m}" for m, n in sorted(counts.items()) if n)
            for model in self._line.models:
                if not (count := counts.get(model, 0)):
                    continue
                height = count / most * (WAIT_HEIGHT - 4)
                y -= height
                yield self._box(start, end, y, height, paler(self._colour[model], 0.3), tip,
                                kind="wait", least=0.0)  # fmt: skip

    def _lane(self, top: float, lane: Lane) -> Iterator[Shape]:
        line = self._line
        busy, loading, idle = lane.shares(line.start, line.end)
        yield Words(24, top + 30, lane.device[:24], 14, bold=True)
        yield Words(24, top + 50, f"{100 * busy:.0f} % runs", 12, FAINT)
        yield Words(24, top + 66, f"{100 * loading:.0f} % only loads", 12, FAINT)
        yield Words(24, top + 82, f"{100 * idle:.0f} % idle", 12, FAINT)
        body = top + LOAD_HEIGHT + 2
        yield Box(LEFT, body, WIDTH - LEFT - RIGHT, LANE_HEIGHT, IDLE)
        for model, span in lane.loads:
            tip = f"{span.name} {model} on {lane.device}: {span.seconds:.2f} s"
            fill = FAULT if span.failed else self._colour[model]
            yield self._box(span.start, span.end, top, LOAD_HEIGHT, fill, tip, hatched=True,
                            kind="load")  # fmt: skip
        height = LANE_HEIGHT / max(3, lane.slots)
        for block in lane.blocks:
            yield from self._block(block, body + LANE_HEIGHT - height * (block.slot + 1), height)
        for span in lane.faults:
            tip = f"{lane.device} takes no work: {span.name}, {span.seconds:.2f} s"
            yield self._box(span.start, span.end, body, LANE_HEIGHT, FAULT, tip,
                            opacity=0.22, kind="fault", least=2.0)  # fmt: skip

    def _block(self, block: Block, y: float, height: float) -> Iterator[Shape]:
        """Faint where it holds its device, full while it is denoised; at its end, how it left."""
        fill = self._colour[block.model]
        tall = max(1.0, height - 1)
        rows = f", {block.rows} rows" if block.rows > 1 else ""
        tip = (
            f"{block.generation} {block.model}, attempt {block.attempt}{rows}:"
            f" {block.span.seconds:.3f} s"
        )
        if block.left_by:
            tip += f"; {block.left_by}"
        span = block.span
        yield self._box(span.start, span.end, y, tall, paler(fill, 0.55), tip, kind="block")
        for phase in block.phases:
            end = min(phase.end, span.end)
            if phase.name == "denoise" and end > phase.start:
                told = f"{tip}\ndenoise {phase.seconds:.3f} s"
                yield self._box(phase.start, end, y, tall, fill, told, kind="block", least=0.5)
        if block.left_by:
            mark = PREEMPTED if block.preempted else FAULT
            x = self._x(span.end)
            at = span.end - self._line.start
            yield Box(x - 3, y, 3, tall, mark, tip, (at, at), kind="mark")


def paler(colour: str, share: float) -> str:
    """So much of it is white. In place of an opacity: what overlaps by a pixel is not seen."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def nice_step(seconds: float) -> float:
    """1, 2 or 5 times a power of ten, not below `seconds`."""
    power = 10.0 ** floor(log10(max(seconds, 1e-6)))
    return next((n * power for n in (1, 2, 5) if n * power >= seconds), ceil(10) * power)
