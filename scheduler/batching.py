"""Who may share a batch: a larger one is slower for each member, so it must be worth it. Pure.

With step(b) = a + c*b, a batch of eight may cost five times the latency for 1.6 times the
throughput. So a newcomer joins only while its model's work queues up, and only as long as every
member keeps enough of its remaining slack. Greedy joining (the habit of language models) lost in
every trial.
"""

from __future__ import annotations

import math

from scheduler.model import Shape
from scheduler.runqueue import Ticket

THETA = 0.6  # of the slack that is left may be spent by sharing
LATE_LIMIT = 64.0  # rows; what is late anyway minds nobody
MOST_SKIPS = 4  # tickets looked past for one that fits


def limit(ticket: Ticket, shape: Shape, now: float, speed: float) -> float:
    """Rows of the largest batch in which the ticket keeps its slack."""
    if ticket.late or ticket.due == math.inf:
        return LATE_LIMIT
    slack = (ticket.due - now) * speed
    if slack <= 0:
        return LATE_LIMIT
    if shape.step_c <= 0 or ticket.steps_left <= 0:
        return LATE_LIMIT
    per_step = (THETA * slack - shape.decode * ticket.rows) / ticket.steps_left
    return max(1.0, (per_step - shape.step_a) / shape.step_c)


def rescues(alone: Ticket, newcomer: Ticket, shape: Shape, now: float, speed: float) -> bool:
    """Whether sharing saves a newcomer that would be late behind `alone`, and costs neither."""
    behind = left(alone, shape) + left(newcomer, shape)
    if now + behind / speed <= newcomer.due:
        return False
    rows = alone.rows + newcomer.rows
    for ticket in (alone, newcomer):
        together = ticket.steps_left * shape.step(rows) + rows * shape.decode
        if now + together / speed > ticket.due:
            return False
    return True


def left(ticket: Ticket, shape: Shape) -> float:
    """Seconds of work that are left of it, alone, at speed 1."""
    return shape.work(ticket.steps_left, ticket.rows)
