"""The whole state on one line, as Go's schedtrace: for logs and golden tests of order. Pure."""

from __future__ import annotations

from scheduler.sched import Bind, Decision, Load, Sched


def state_line(sched: Sched) -> str:
    """Queues (model/shape:depth), then each device: batch, runnext, residents, loader, memory."""
    queues = " ".join(
        f"{queue.key[0]}/{queue.key[1]}:{len(queue)}"
        for queue in sorted(sched.queues, key=lambda q: q.key)
    )
    parts = [f"queued={len(sched.queues)}[{queues}]"]
    for device in sorted(sched.devices.values(), key=lambda d: d.id):
        runnext = device.runnext.id if device.runnext else "-"
        resident = ",".join(sorted(device.resident)) or "-"
        parts.append(
            f"{device.id}{{run={','.join(device.running) or '-'} next={runnext}"
            f" resident={resident} load={device.loading or '-'} unload={device.unloading or '-'}"
            f" mem={device.reserved_bytes(sched.cards)}/{device.capacity_bytes}"
            f"{' quarantined' if device.quarantined else ''}}}"
        )
    return " ".join(parts)


def decision_line(decision: Decision) -> str:
    """One decision, in words."""
    match decision:
        case Bind(ticket, device):
            return f"bind {ticket.id} -> {device}"
        case Load(model, device, ticket):
            return f"load {model} on {device} for {ticket.id}"
        case _:
            return f"unload {decision.model} from {decision.device_id}"
