"""How a generation looks to others, with its progress."""

from __future__ import annotations

from atelier.generation import State
from atelier.translate import generation_to
from atelier.v1 import generation_pb2
from scheduler.live import Live
from scheduler.watchers import View


def view_to(view: View, live: Live, *, brief: bool = False) -> generation_pb2.Generation:
    """The generation with its progress: queue position while it waits, step while it runs.

    Lists are told in brief: finding a position takes a walk through its queue, and previews are
    large.
    """
    generation, progress = view.generation, view.progress
    message = generation_to(generation)
    if generation.state is State.QUEUED:
        message.progress.CopyFrom(queued_to(view, live, position=not brief))
        return message
    message.progress.total_steps = generation.spec.run_steps
    if generation.state is State.RUNNING and progress:
        message.progress.phase = generation_pb2.Phase.ValueType(progress.phase)
        message.progress.step = progress.step
        left = generation.spec.run_steps - progress.step
        message.progress.estimated_seconds = left * progress.step_seconds
        if not brief:
            message.progress.preview = progress.preview
            message.progress.preview_step = progress.preview_step
    elif generation.state is State.SUCCEEDED:
        message.progress.step = generation.spec.run_steps
    return message


def queued_to(view: View, live: Live, *, position: bool = True) -> generation_pb2.Progress:
    """Of one that waits: its place, and an estimate: all before it and itself, one after another.

    Args:
        position: tell both, which takes a walk through its queue.
    """
    generation, sched = view.generation, live.sched
    model = generation.model
    loading = bool(sched.books.loading[model]) and not sched.books.replicas[model]
    progress = generation_pb2.Progress(
        total_steps=generation.spec.run_steps,
        phase=generation_pb2.PHASE_LOADING if loading else generation_pb2.PHASE_QUEUED,
    )
    ticket = sched.queues.get(generation.id)
    if ticket is None or not position:
        return progress
    queue = sched.queues.queue(ticket.queue)
    progress.queue_position = queue.position(ticket) if queue else 0
    ahead = (progress.queue_position + 1) * sched.books.left(ticket)
    progress.estimated_seconds = ahead / max(1, len(sched.devices))
    return progress
