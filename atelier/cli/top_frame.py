"""One frame of `atelier top`: lines of exactly the width that there is. Pure, but for the words.

From top to bottom: the fleet in a line and what was decided in the last minute; the devices, each
with the batch that it runs below it; the queues; the latest decisions; the keys. What is too wide
loses its least important columns, what is too high is scrolled, or cut with a count of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.text import Text

from atelier.cli import fleet_words as words
from atelier.cli.top_fleet import Fleet
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2

KEYS = (
    "↑↓ choose", "enter inspect", "s sort", "r reverse", "d drain", "u undrain", "c cancel",
    "p pause", "q quit",
)  # fmt: skip
UNBOUNDED = 100_000  # lines: of a pipe
NEWS_STYLES = {
    pb.DECISION_KIND_LOAD: "cyan",
    pb.DECISION_KIND_UNLOAD: "cyan",
    pb.DECISION_KIND_PREEMPT: "yellow",
    pb.DECISION_KIND_REJECT: "red",
}
_MINUTE = ("run", "load", "unload", "preempt", "reject")
_PAST = {"run": "started", "load": "loaded", "unload": "evicted", "preempt": "preempted",
         "reject": "refused"}  # fmt: skip


@dataclass
class View:
    """How the reader looks at it. `chosen`: an id; `detail`: lines shown in place of the queues
    and decisions; `question`: what is to be answered with y or n."""

    sort: str = "id"
    backwards: bool = False
    chosen: str = ""
    first: int = 0  # line of the devices that is shown first
    at: int = 0  # line that is chosen; what is there takes over where the chosen has gone
    said: str = ""
    question: str = ""
    detail: Sequence[Text] = ()
    paused: bool = False
    rows: list[str] = field(default_factory=list)  # what can be chosen, as last drawn


def draw(
    fleet: Fleet, view: View, width: int, height: int, now: datetime, where: str
) -> list[Text]:
    """The frame: `height` lines at most, of `width` cells at most."""
    head = [_title(fleet, width, now, where), _minute(fleet, now)]
    foot = [] if height >= UNBOUNDED else [_foot(view)]
    body, view.rows = _devices(fleet, view, width)
    room = height - len(head) - len(foot)
    below = list(view.detail) or _below(fleet, room, len(body))
    shown = _window(body, view, max(3, room - len(below)), choosing=bool(foot))
    lines = [*head, *shown, *below[: max(0, room - len(shown))]]
    lines += [Text()] * (height - len(lines) - len(foot)) if foot else []
    for line in (drawn := [*lines, *foot]):
        line.truncate(width, overflow="ellipsis")
    return drawn


def _title(fleet: Fleet, width: int, now: datetime, where: str) -> Text:
    states: dict[str, int] = {}
    for device in fleet.devices.values():
        states[_state(device)] = states.get(_state(device), 0) + 1
    count = ", ".join(f"{n:,} {state}" for state, n in sorted(states.items())) or "no device"
    left = Text.assemble(
        ("atelier top ", "bold"), f"{where}  ", (count, "bold"),
        f"  {fleet.running:,} run  {fleet.waiting:,} wait",
    )  # fmt: skip
    if fleet.note:
        left.append(f"  {plain(fleet.note)}", "bold red")
    clock = f"{now.astimezone():%H:%M:%S}"
    gap = width - left.cell_len - len(clock)
    return left.append(" " * gap + clock) if gap > 1 else left


def _minute(fleet: Fleet, now: datetime) -> Text:
    counts = fleet.lately(now.timestamp())
    told = ", ".join(f"{counts[kind]:,} {_PAST[kind]}" for kind in _MINUTE)
    line = Text(f"in the last minute: {told}", "dim")
    if fleet.missed:
        line.append(f"; {fleet.missed:,} decisions were too fast to be told", "red")
    return line


def _devices(fleet: Fleet, view: View, width: int) -> tuple[list[tuple[str, Text]], list[str]]:
    """A heading, then each device and what it runs; and the ids of all that can be chosen."""
    devices = fleet.sorted(view.sort, backwards=view.backwards)
    columns = _Columns(devices, width)
    lines = [("", columns.heading(view))]
    for device in devices:
        lines.append((device.id, columns.device(device)))
        lines += [(one.id, _running(one, width)) for one in device.running]
    return lines, [key for key, _ in lines[1:]]


class _Columns:
    """The columns of devices that fit; those that nobody has a figure for are left out."""

    def __init__(self, devices: Sequence[pb.Device], width: int) -> None:
        self._id = min(24, max((len(d.id) for d in devices), default=6))
        self._bar = 14 if width >= 90 else 8 if width >= 60 else 0
        used = self._id + 1 + 13 + (self._bar + 1 if self._bar else 0) + 16
        self._measured = used + 10 < width - 20 and any(d.measured_bytes for d in devices)
        used += 10 if self._measured else 0
        self._busy = used + 5 < width - 20 and any(d.utilisation_percent for d in devices)
        used += 5 if self._busy else 0
        self._counts = used + 13 < width - 10

    def heading(self, view: View) -> Text:
        mark = f"DEVICE by {view.sort}{'↑' if view.backwards else ''}"
        mark = mark if len(mark) <= self._id + 13 else f"by {view.sort}"
        line = f"{mark:<{self._id + 14}}"
        line += f"{'MEMORY':<{self._bar + 1}}" if self._bar else ""
        line += f"{'HELD OF GiB':<16}"
        line += f"{'MEASURED':<10}" if self._measured else ""
        line += f"{'BUSY':<5}" if self._busy else ""
        line += f"{'ROWS':>4} {'WAIT':>6}  " if self._counts else ""
        return Text(line + "MODELS", "bold")

    def device(self, device: pb.Device) -> Text:
        style = words.STYLES.get(device.state, "red")
        line = Text.assemble(
            (f"{_short(plain(device.id), self._id):<{self._id}} ", "bold"),
            (f"{_state(device):<13}", style),
        )
        if self._bar:
            line.append_text(memory_bar(device, self._bar)).append(" ")
        held, of = device.reserved_bytes / 2**30, device.capacity_bytes / 2**30
        line.append(f"{f'{held:.2f} of {of:.2f}':<16}")
        if self._measured:
            line.append(f"{device.measured_bytes / 2**30:<10.2f}")
        if self._busy:
            line.append(f"{f'{device.utilisation_percent}%':<5}")
        if self._counts:
            rows = sum(one.rows for one in device.running)
            line.append(f"{rows or '-':>4} {device.waiting_generations or '-':>6}  ")
        if device.reason:
            line.append(f"{plain(device.reason)}  ", style)
        loading = {device.loading_model, device.unloading_model} - {""}
        for word in words.models(device):
            moving = word.split(" ")[0] in loading
            line.append(f"{plain(word)}  ", "cyan" if moving else "")
        return line


def memory_bar(device: pb.Device, cells: int) -> Text:
    """What the scheduler counts as held, and what the driver measures beyond that."""
    of = max(1, device.capacity_bytes)
    held = min(cells, round(cells * device.reserved_bytes / of))
    measured = min(cells, round(cells * device.measured_bytes / of))
    over = max(0, measured - held)
    return Text.assemble(
        ("█" * held, "green" if device.reserved_bytes < 0.9 * of else "yellow"),
        ("▒" * over, "red"),
        ("·" * (cells - held - over), "dim"),
    )


def _running(one: pb.RunningGeneration, width: int) -> Text:
    """A row of the batch: whose, what, and its step."""
    name = one.id if width >= 100 else _short(one.id, 13)
    level = generation_pb2.Priority.Name(one.priority).removeprefix("PRIORITY_").lower()
    what = f"{one.model} {one.shape}" + (f" ×{one.rows}" if one.rows > 1 else "")
    line = Text.assemble("  └ ", (name, "dim"), f"  {what:<22} {level:<12}")
    if one.phase == generation_pb2.PHASE_DENOISING and one.total_steps:
        done = round(10 * one.step / one.total_steps)
        line.append("━" * done, "green").append("·" * (10 - done), "dim")
        return line.append(f" step {one.step} of {one.total_steps}")
    doing = generation_pb2.Phase.Name(one.phase).removeprefix("PHASE_").lower().replace("_", " ")
    return line.append("starting" if not one.phase else doing, "cyan")


def _window(
    lines: Sequence[tuple[str, Text]], view: View, room: int, *, choosing: bool
) -> list[Text]:
    """The heading, and as much of the rest as there is room for, with the chosen line in it."""
    heading, rest = lines[0][1], lines[1:]
    room -= 1
    if choosing and rest:
        keys = [key for key, _ in rest]
        at = keys.index(view.chosen) if view.chosen in keys else min(view.at, len(keys) - 1)
        view.chosen, view.at = keys[at], at
        if len(rest) > room:
            room -= 1  # for how many there are
        view.first = max(0, min(view.first, at, len(rest) - room))
        view.first = max(view.first, at - room + 1)
    else:
        view.first = 0
    shown = [text.copy() for _, text in rest[view.first : view.first + room]]
    if choosing and rest:
        shown[at - view.first].stylize("reverse")
    if len(rest) > len(shown):
        last = view.first + len(shown)
        shown.append(Text(f"  {view.first + 1:,} to {last:,} of {len(rest):,} lines", "dim"))
    return [heading, *shown]


def _below(fleet: Fleet, room: int, wanted: int) -> list[Text]:
    """Queues and decisions: all of a pipe; on a screen, what the devices leave, but half at most
    where there are many."""
    space = max(room - max(3, wanted), room // 2)
    queues = [_queue(queue) for queue in fleet.queues]
    most = max(1, min(len(queues), space // 3))
    if len(queues) > most:
        left = sum(queue.depth for queue in fleet.queues[most - 1 :])
        rest = Text(f"  {len(queues) - most + 1} more queues with {left:,} waiting", "dim")
        queues = [*queues[: most - 1], rest]
    lines = [Text(), Text("WAITING", "bold"), *(queues or [Text("  nothing", "dim")])]
    space -= len(lines) + 2
    latest = list(fleet.news)[-max(1, min(space, 20)) :]
    news = [Text(words.decision_line(d), NEWS_STYLES.get(d.kind, "")) for d in reversed(latest)]
    for line in news:
        line.plain = plain(line.plain)
    return [*lines, Text(), Text("DECIDED, the latest first", "bold"), *news]


def _queue(queue: pb.Queue) -> Text:
    return Text("  " + plain(words.queue_line(queue)))


def _foot(view: View) -> Text:
    if view.question:
        return Text(f"{view.question} y/n", "bold reverse")
    if view.said:
        return Text(view.said, "bold")
    paused = "PAUSED (p goes on)  " if view.paused else ""
    return Text(paused + "  ".join(KEYS), "dim")


def _state(device: pb.Device) -> str:
    return pb.DeviceState.Name(device.state).removeprefix("DEVICE_STATE_").lower()


def _short(text: str, cells: int) -> str:
    """Both ends of an id that is too long: they are what differs."""
    if len(text) <= cells:
        return text
    return f"{text[: cells - 5]}…{text[-4:]}"


def plain(text: str) -> str:
    """On one line, and without what would steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def utc_now() -> datetime:
    return datetime.now(UTC)
