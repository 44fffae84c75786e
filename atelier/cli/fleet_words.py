"""The fleet in words for a person: devices, queues and decisions. Asks nobody."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2

STYLES = {
    pb.DEVICE_STATE_READY: "green",
    pb.DEVICE_STATE_DRAINING: "yellow",
    pb.DEVICE_STATE_DRAINED: "yellow",
}
VERBS = {
    pb.DECISION_KIND_RUN: "run",
    pb.DECISION_KIND_PREEMPT: "preempt",
    pb.DECISION_KIND_LOAD: "load",
    pb.DECISION_KIND_UNLOAD: "unload",
    pb.DECISION_KIND_REJECT: "reject",
    pb.DECISION_KIND_HOLD: "hold",
}


def mebibytes(count: int | None) -> str:
    """Bytes for a person; a dash for none."""
    return "-" if not count else f"{count / 2**20:,.0f} MiB"


def state(device: pb.Device) -> str:
    """Its state, and why: "draining: new fans"."""
    word = pb.DeviceState.Name(device.state).removeprefix("DEVICE_STATE_").lower()
    if device.drain_reason and device.drain_reason != device.reason:
        word += f" (and drained: {device.drain_reason})"
    return f"{word}: {device.reason}" if device.reason else word


def models(device: pb.Device) -> list[str]:
    """What is there, comes or goes, and what is pinned."""
    pinned = set(device.pinned_models)
    words = [f"{m} (pinned)" if m in pinned else m for m in device.resident_models]
    if device.loading_model:
        gone = datetime.now(UTC) - device.load_start_time.ToDatetime(tzinfo=UTC)
        seconds = f"{max(0.0, gone.total_seconds()):.0f} of {device.load_expected_seconds:.0f} s"
        words.append(f"{device.loading_model} (loading, {seconds})")
    if device.unloading_model:
        words.append(f"{device.unloading_model} (unloading)")
    at_hand = set(device.host_memory_models) - {*device.resident_models, device.loading_model}
    words += [f"{m} (in host memory)" for m in sorted(at_hand)]
    missing = pinned - {*device.resident_models, device.loading_model}
    return words + [f"{m} (pinned, not there)" for m in sorted(missing)]


def running(one: pb.RunningGeneration) -> str:
    """What a generation on a device is doing."""
    doing = generation_pb2.Phase.Name(one.phase).removeprefix("PHASE_").lower().replace("_", " ")
    if one.phase == generation_pb2.PHASE_DENOISING:
        doing = f"step {one.step} of {one.total_steps}"
    elif one.phase == generation_pb2.PHASE_UNSPECIFIED:
        doing = "starting"
    rows = f", {one.rows} rows" if one.rows > 1 else ""
    return f"{one.id} {one.model} {one.shape}{rows}: {doing}"


def device_table(devices: list[pb.Device]) -> Table:
    """A row a device; what no driver tells of has no column."""
    measured = any(d.measured_bytes for d in devices)
    warm = any(d.temperature_celsius or d.power_watts for d in devices)
    table = Table("device", "node", "state", "held", "of", box=None)
    for name in (*(["measured"] if measured else []), *(["°C", "W"] if warm else [])):
        table.add_column(name, justify="right")
    for name in ("models", "runs", "hardware"):
        table.add_column(name)
    table.add_column("waiting", justify="right")
    for d in devices:
        figures = [mebibytes(d.measured_bytes)] if measured else []
        figures += [str(d.temperature_celsius), f"{d.power_watts:.0f}"] if warm else []
        table.add_row(
            escape(d.id),
            escape(d.node),
            f"[{STYLES.get(d.state, 'red')}]{escape(state(d))}[/]",
            mebibytes(d.reserved_bytes),
            mebibytes(d.capacity_bytes),
            *figures,
            escape("\n".join(models(d)) or "-"),
            escape("\n".join(running(one) for one in d.running) or "-"),
            escape(d.hardware),
            str(d.waiting_generations),
        )
    return table


def queue_line(queue: pb.Queue) -> str:
    """Who waits for what, and for how long."""
    classes = ", ".join(
        f"{one.depth} {_class(one)}" + (f" of which {one.late} late" if one.late else "")
        for one in queue.classes
    )
    return (
        f"{queue.depth} wait for {queue.model} {queue.shape} ({classes}),"
        f" the oldest for {queue.oldest_wait_seconds:.1f} s"
    )


def _class(one: pb.QueueClass) -> str:
    return generation_pb2.Priority.Name(one.priority).removeprefix("PRIORITY_").lower()


def decision_line(decision: pb.Decision) -> str:
    """One decision and its reason."""
    what = decision.model
    if decision.generation_id:
        what = f"{decision.generation_id} ({decision.model})"
    if decision.device_id:
        what += f" on {decision.device_id}"
    if decision.evicted_models:
        what += f" instead of {', '.join(decision.evicted_models)}"
    if decision.kind == pb.DECISION_KIND_HOLD:
        what = ", ".join(decision.host_memory_models) or "nothing"
        what += f" in the memory of {decision.node}"
        what += f", reading {decision.model}" if decision.model else ""
    made = decision.time.ToDatetime(tzinfo=UTC)
    why = f": {decision.reason}" if decision.reason else ""
    return line(made, VERBS.get(decision.kind, "?"), what + why)


def line(at: datetime, kind: str, what: str) -> str:
    """A line of `watch`: local time, what kind of news, the news."""
    return f"{at.astimezone():%H:%M:%S.%f}"[:-3] + f"  {kind:<8}{what}"
