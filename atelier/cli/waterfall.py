"""`atelier trace`: a generation's life as a waterfall, attempts one under the other."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from atelier.cli.fleet import fleet_at
from atelier.cli.life import BOTH, PREEMPTED, Attempt, Life, Span, read_life
from atelier.cli.where import Gateway
from atelier.v1 import generation_pb2

NAME_CELLS, SECONDS_CELLS = 26, 10
STYLES = {
    "queued": "yellow", "load": "cyan", "text": "blue", "denoise": "green",
    "decode": "magenta", BOTH: "blue", "encode": "blue", "upload": "cyan", "publish": "cyan",
    "starting": "dim",
}  # fmt: skip


async def trace(where: Gateway, generation_id: str, console: Console) -> None:
    """Print it.

    Raises:
        ProblemError: there is none of that id, or nobody answers.
    """
    async with fleet_at(where) as fleet:
        life = await read_life(fleet, generation_id)
    for line in waterfall(life, console.width):
        console.print(line, soft_wrap=True)


def waterfall(life: Life, width: int) -> list[Text]:
    """Its lines, at most `width` cells wide; times in seconds, bars from the first wait on."""
    scale = _Scale(life, width)
    lines = [_title(life), scale.axis()]
    for attempt in life.attempts:
        lines += _waited(life, attempt, scale)
        lines += _ran(life, attempt, scale)
    if not any(a.marks for a in life.attempts) and any(a.began for a in life.attempts):
        lines.append(Text("of its phases nothing is remembered: the scheduler was restarted, or it"
                          " was long ago", "dim"))  # fmt: skip
    for line in lines:
        line.plain = "".join(c if c.isprintable() else "?" for c in line.plain)
        line.truncate(width, overflow="ellipsis")
    return lines


class _Scale:
    """Where in a line an instant is."""

    def __init__(self, life: Life, width: int) -> None:
        self._start = life.start
        self._seconds = max(1e-3, life.end - life.start)
        self._cells = max(10, width - NAME_CELLS - SECONDS_CELLS - 2)

    def axis(self) -> Text:
        marks = [" "] * self._cells
        for part in range(4):
            at, text = part * self._cells // 4, f"│{part * self._seconds / 4:.2f}"
            marks[at : at + len(text)] = text
        return Text(" " * (NAME_CELLS + SECONDS_CELLS + 2) + "".join(marks)[: self._cells], "dim")

    def line(self, name: str, span: Span, style: str) -> Text:
        """Its name, its seconds, and a bar where it lies; what began before is cut off."""
        first = max(0, min(self._cell(span.start), self._cells - 1))
        cells = max(1, min(self._cell(span.end) - first, self._cells - first))
        line = Text(f"{name[:NAME_CELLS]:<{NAME_CELLS}}{span.seconds:>{SECONDS_CELLS - 2}.3f} s  ")
        return line.append(" " * first).append("█" * cells, style)

    def _cell(self, at: float) -> int:
        return int((at - self._start) / self._seconds * self._cells)


def _title(life: Life) -> Text:
    state = generation_pb2.GenerationState.Name(
        generation_pb2.GenerationState.ValueType(life.state)
    )
    word = state.removeprefix("GENERATION_STATE_").lower()
    tries = f", {len(life.attempts)} attempts" if len(life.attempts) > 1 else ""
    how = f"{word} {'for' if life.ended is None else 'after'} {life.end - life.start:.3f} s{tries}"
    steps = f", {life.steps} steps" if life.steps else ""
    style = "bold red" if word in ("failed", "expired") else "bold"
    return Text.assemble((life.id, "bold"), "  ", (how, style), f"  {life.model}{steps}")


def _waited(life: Life, attempt: Attempt, scale: _Scale) -> list[Text]:
    """Its wait, the choice of its device, and the loads meanwhile."""
    if attempt.queued is None:
        return []
    began = attempt.began if attempt.began is not None else attempt.ended
    until = life.end if began is None else began
    name = "queued" if attempt.number == 1 else f"queued for attempt {attempt.number}"
    lines = [scale.line(name, Span("queued", attempt.queued, until), STYLES["queued"])]
    for device, span in life.loads:
        if device == attempt.device and attempt.queued < span.end <= until:
            style = "red" if span.failed else STYLES["load"]
            lines.append(scale.line(f"  {span.name} on {device}", span, style))
    if attempt.bound is not None:
        why = f": {attempt.why}" if attempt.why else ""
        lines.append(Text(f"  bound to {attempt.device}{why}", "dim"))
    return lines


def _ran(life: Life, attempt: Attempt, scale: _Scale) -> list[Text]:
    """The attempt, its phases, and how it ended where that was not with its results."""
    if attempt.began is None:
        return []
    end = life.end if attempt.ended is None else attempt.ended
    name = f"attempt {attempt.number} on {attempt.device}"
    lines = [scale.line(name, Span(name, attempt.began, end), "bold")]
    for span in attempt.phases(life.end):
        name = span.name
        if name == "denoise" and life.steps and not attempt.left_by and attempt.number == 1:
            name += f", {life.steps} x {1e3 * span.seconds / life.steps:.1f} ms"
        lines.append(scale.line(f"  {name}", span, STYLES.get(span.name, "")))
    if attempt.left_by:
        if attempt.left_by == PREEMPTED:
            lines.append(Text("  preempted: it goes on from where it was", "yellow"))
        else:
            lines.append(Text(f"  ended by {attempt.left_by}", "red"))
    return lines
