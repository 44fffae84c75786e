"""How the scheduler's state looks to others: generations with progress, devices, queues."""

from __future__ import annotations

from atelier.generation import State
from atelier.translate import generation_to
from atelier.v1 import fleet_pb2, generation_pb2
from scheduler.device import Device
from scheduler.fleet import AWAY, Fleet
from scheduler.live import Live
from scheduler.runqueue import GlobalQueue
from scheduler.sched import Sched
from scheduler.watchers import View


def view_to(view: View, live: Live, *, position: bool = True) -> generation_pb2.Generation:
    """The generation with its progress: queue position while it waits, step while it runs.

    Finding a position takes a walk through its queue: lists are told without.
    """
    generation, progress = view.generation, view.progress
    message = generation_to(generation)
    message.progress.total_steps = generation.spec.steps
    if generation.state is State.QUEUED:
        _queued(message.progress, view, live, position=position)
    elif generation.state is State.RUNNING and progress:
        message.progress.phase = generation_pb2.Phase.ValueType(progress.phase)
        message.progress.step = progress.step
        left = generation.spec.steps - progress.step
        message.progress.estimated_seconds = left * progress.step_seconds
    elif generation.state is State.SUCCEEDED:
        message.progress.step = generation.spec.steps
    return message


def _queued(progress: generation_pb2.Progress, view: View, live: Live, *, position: bool) -> None:
    """Position in its queue, and an estimate: all before it and itself, one after another."""
    generation, sched = view.generation, live.sched
    model = generation.model
    loading = bool(sched.residency.loading[model]) and not sched.residency.replicas[model]
    progress.phase = generation_pb2.PHASE_LOADING if loading else generation_pb2.PHASE_QUEUED
    ticket = sched.queues.get(generation.id)
    if ticket is None or not position:
        return
    queue = sched.queues.queue(ticket.queue)
    progress.queue_position = queue.position(ticket) if queue else 0
    ahead = (progress.queue_position + 1) * sched.left(ticket)
    progress.estimated_seconds = ahead / max(1, len(sched.devices))


def device_to(device: Device, sched: Sched, fleet: Fleet) -> fleet_pb2.Device:
    """One device as the core sees it, with what its agent measured."""
    state = fleet_pb2.DEVICE_STATE_READY
    if device.quarantined:
        lost = device.quarantined == AWAY
        state = fleet_pb2.DEVICE_STATE_LOST if lost else fleet_pb2.DEVICE_STATE_QUARANTINED
    sample = fleet.samples.get(device.id)
    return fleet_pb2.Device(
        id=device.id,
        node=device.node,
        hardware=fleet.hardware.get(device.id, ""),
        state=state,
        reason=device.quarantined,
        capacity_bytes=int(device.declared),
        reserved_bytes=int(device.capacity - device.free(sched.models)),
        measured_bytes=sample.measured_bytes if sample else 0,
        utilisation_percent=sample.utilisation_percent if sample else 0,
        resident_models=sorted(device.resident),
        loading_model=device.loading,
        running_generations=sorted(device.running),
    )


def queue_to(queue: GlobalQueue, now: float) -> fleet_pb2.Queue:
    """One queue; `now` on the core's clock."""
    return fleet_pb2.Queue(
        model=queue.key[0],
        shape=queue.key[1],
        depth=len(queue),
        oldest_wait_seconds=now - min((t.submitted for t in queue), default=now),
    )
