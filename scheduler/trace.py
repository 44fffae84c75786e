"""The whole state on one line, as Go's schedtrace: for logs and golden tests of order. Pure."""

from __future__ import annotations

from scheduler.decisions import Bind, Boundary, Decision, Hold, Load, Preempt, Unload
from scheduler.device import Device
from scheduler.sched import Sched


def state_line(sched: Sched) -> str:
    """Queues (model/shape:depth), then each device: batch, residents, loader, memory in MB."""
    queues = " ".join(
        f"{queue.key[0]}/{queue.key[1]}:{len(queue)}"
        for queue in sorted(sched.queues, key=lambda q: q.key)
    )
    devices = sorted(sched.devices.values(), key=lambda d: d.id)
    parts = [f"queued={len(sched.queues)}[{queues}]", *(_device(d, sched) for d in devices)]
    return " ".join(parts)


def _device(device: Device, sched: Sched) -> str:
    held = device.capacity - device.free(sched.models)
    marks = "".join(
        f" {mark}"
        for mark, is_so in (
            ("idle", device.id in sched.books.idle),
            ("quarantined", bool(device.quarantined)),
            ("drained", bool(device.drained)),
            ("yields", device.yield_to is not None),
            ("gang", device.gang is not None),
        )
        if is_so
    )
    return (
        f"{device.id}{{run={','.join(device.running) or '-'}"
        f" resident={','.join(sorted(device.resident)) or '-'} load={device.loading or '-'}"
        f" unload={device.unloading or '-'} mem={held:.0f}/{device.capacity:.0f}{marks}}}"
    )


def decision_line(decision: Decision) -> str:
    """One decision, in words."""
    match decision:
        case Bind(ticket, device):
            return f"bind {ticket.id} -> {device}"
        case Preempt(ticket, device):
            return f"preempt {ticket.id} on {device}"
        case Load(model, device, evict):
            instead = f" instead of {','.join(evict)}" if evict else ""
            return f"load {model} on {device}{instead}"
        case Unload(model, device):
            return f"unload {model} from {device}"
        case Hold(node, models, warming):
            reading = f", reading {warming}" if warming else ""
            return f"hold {','.join(models) or 'nothing'} in the memory of {node}{reading}"
        case Boundary(device):
            return f"ask {device}"
        case _:
            return f"reject {decision.ticket.id}"


def check_integrity(sched: Sched) -> None:
    """Raise AssertionError where the core contradicts itself."""
    bound: set[str] = set()
    for device in sched.devices.values():
        assert len({t.queue for t in device.running.values()}) <= 1, f"{device.id}: mixed batch"
        over = device.free(sched.models) < -1e-6 and not device.overdrawn
        assert not over, f"{device.id}: memory over budget"
        for ticket in device.running.values():
            assert ticket.id not in bound, f"{ticket.id} is bound twice"
            assert ticket.id not in sched.queues, f"{ticket.id} is bound and queued"
            assert ticket.model in device.resident, f"{ticket.id} runs without its model"
            bound.add(ticket.id)
    assert bound == sched.books.bound.keys(), "what is bound is counted wrongly"
    for model, replicas in sched.books.replicas.items():
        there = {d.id for d in sched.devices.values() if d.usable and model in d.resident}
        assert {d.id for d in replicas} == there, f"{model}: replicas are counted wrongly"
        assert len(replicas) == len(there), f"{model}: a replica is counted twice"
    for model, coming in sched.books.loading.items():
        loads = {d.id for d in sched.devices.values() if d.loading == model and not d.drained}
        assert sorted(d.id for d in coming) == sorted(loads), f"{model}: loads are counted wrongly"
