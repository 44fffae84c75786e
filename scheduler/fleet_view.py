"""How the fleet looks to operators: devices, queues and decisions as messages."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from atelier.generation import Priority
from atelier.translate import priority_to, time_to
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2
from atelier.v1.agent_pb2 import DeviceSample
from scheduler.decisions import Bind, Hold, Load, Preempt, Reject, Unload
from scheduler.device import Device
from scheduler.fleet import AWAY, Fleet
from scheduler.live import Live
from scheduler.recent import Record, reason_of
from scheduler.runqueue import GlobalQueue, Ticket

AT_ONCE = 64  # devices: about a millisecond

_PRIORITIES = {priority.level: priority for priority in Priority}
_KINDS = {
    Bind: pb.DECISION_KIND_RUN,
    Preempt: pb.DECISION_KIND_PREEMPT,
    Load: pb.DECISION_KIND_LOAD,
    Unload: pb.DECISION_KIND_UNLOAD,
    Hold: pb.DECISION_KIND_HOLD,
    Reject: pb.DECISION_KIND_REJECT,
}


class FleetView:
    """Looks at the core, at what agents measured and at what operators ordered; changes nothing."""

    def __init__(self, live: Live, fleet: Fleet, wall: Callable[[], datetime]) -> None:
        self._live = live
        self._fleet = fleet
        self._wall = wall

    async def devices(self) -> list[pb.Device]:
        """All devices, by id: also those that are away, but for which orders stand.

        A large fleet is looked at in parts, between which the scheduler goes on.
        """
        sched, found = self._live.sched, []
        ordered = {*sched.drained, *(d for d, models in sched.pinned.items() if models)}
        for n, device_id in enumerate(sorted({*sched.devices, *ordered})):
            if n % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            found.append(self.device(device_id))
        return found

    async def queues(self) -> list[pb.Queue]:
        """All queues that are not empty, the longest first."""
        now, found = self._live.now(), []
        for queue in sorted(self._live.sched.queues, key=len, reverse=True):
            found.append(queue_to(queue, now))
            await asyncio.sleep(0)
        return found

    def device(self, device_id: str) -> pb.Device:
        """One device: as the core sees it, with what its agent measured, and what was ordered."""
        sched = self._live.sched
        message = pb.Device(
            id=device_id,
            state=pb.DEVICE_STATE_LOST,
            reason=AWAY,
            pinned_models=sorted(sched.pinned.get(device_id, ())),
            drain_reason=sched.drained.get(device_id, ""),
        )
        if device := sched.devices.get(device_id):
            self._describe(message, device)
        if sample := self._fleet.samples.get(device_id):
            _measured(message, sample)
        return message

    def _describe(self, message: pb.Device, device: Device) -> None:
        sched = self._live.sched
        free = device.free(sched.models)
        message.node, message.hardware = device.node, self._fleet.hardware.get(device.id, "")
        message.state = _state_of(device)
        message.reason = device.quarantined or device.drained
        message.capacity_bytes = int(device.declared)
        message.reserved_bytes = int(device.capacity - free)
        message.free_bytes = max(0, int(free))
        message.resident_models.extend(sorted(device.resident))
        message.waiting_generations = sum(sched.queues.count.get(m, 0) for m in device.resident)
        message.running.extend(self._running(t) for _, t in sorted(device.running.items()))
        if host := self._fleet.hosts.get(device.node):
            message.host_memory_models.extend(sorted(host.models))
        message.unloading_model = device.unloading
        message.loading_model = device.loading
        if device.loading:
            since = timedelta(seconds=self._live.now() - device.load_began)
            message.load_start_time.FromDatetime(self._wall() - since)
            message.load_expected_seconds = device.load_ends - device.load_began

    def _running(self, ticket: Ticket) -> pb.RunningGeneration:
        view = self._live.watchers.view(ticket.id)
        progress = view.progress if view else None
        return pb.RunningGeneration(
            id=ticket.id,
            model=ticket.model,
            shape=ticket.shape,
            rows=ticket.rows,
            priority=priority_to(_PRIORITIES[ticket.level]),
            phase=generation_pb2.Phase.ValueType(progress.phase if progress else 0),
            step=progress.step if progress else 0,
            total_steps=ticket.steps,
        )


def _state_of(device: Device) -> pb.DeviceState.ValueType:
    if device.quarantined == AWAY:
        return pb.DEVICE_STATE_LOST
    if device.quarantined:
        return pb.DEVICE_STATE_QUARANTINED
    if device.drained:
        return pb.DEVICE_STATE_DRAINING if device.running else pb.DEVICE_STATE_DRAINED
    return pb.DEVICE_STATE_READY


def _measured(message: pb.Device, sample: DeviceSample) -> None:
    message.measured_bytes = sample.measured_bytes
    message.measured_free_bytes = sample.free_bytes
    message.utilisation_percent = sample.utilisation_percent
    message.temperature_celsius = sample.temperature_celsius
    message.power_watts = sample.power_watts
    message.uncorrected_ecc_errors = sample.uncorrected_ecc_errors
    message.xids.extend(xid.code for xid in sample.xids)
    message.mig_profile = sample.mig_profile


def queue_to(queue: GlobalQueue, now: float) -> pb.Queue:
    """One queue, by class; `now` in seconds on the core's clock."""
    by_level: dict[int, list[Ticket]] = defaultdict(list)
    for ticket in queue:
        by_level[ticket.level].append(ticket)
    classes = [
        pb.QueueClass(
            priority=priority_to(_PRIORITIES[level]),
            depth=len(tickets),
            late=sum(1 for t in tickets if t.late or t.cls < t.level),
            oldest_wait_seconds=_oldest_wait(tickets, now),
        )
        for level, tickets in sorted(by_level.items(), reverse=True)
    ]
    return pb.Queue(
        model=queue.key[0],
        shape=queue.key[1],
        depth=len(queue),
        oldest_wait_seconds=max((c.oldest_wait_seconds for c in classes), default=0.0),
        classes=classes,
    )


def _oldest_wait(tickets: Iterable[Ticket], now: float) -> float:
    return max(0.0, now - min(ticket.submitted for ticket in tickets))


def decision_to(record: Record) -> pb.Decision:
    """One decision as it was recorded."""
    decision = record.decision
    message = pb.Decision(
        sequence=record.sequence,
        time=time_to(record.time),
        kind=_KINDS[type(decision)],
        reason=reason_of(decision),
    )
    if isinstance(decision, Bind | Preempt | Reject):
        message.generation_id, message.model = decision.ticket.id, decision.ticket.model
    if isinstance(decision, Bind | Preempt | Load | Unload):
        message.device_id = decision.device_id
    if isinstance(decision, Load | Unload):
        message.model = decision.model
    if isinstance(decision, Load):
        message.evicted_models.extend(decision.evict)
    if isinstance(decision, Hold):
        message.node, message.model = decision.node, decision.warming
        message.host_memory_models.extend(decision.wanted)
    return message
