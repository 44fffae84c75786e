"""At submit: who should look up at its next step boundary. Go's wakep. Pure."""

from __future__ import annotations

from scheduler.batching import left, limit, rescues
from scheduler.books import Books
from scheduler.device import Device
from scheduler.gang import Gangs
from scheduler.model import Shape
from scheduler.runqueue import Ticket
from scheduler.wants import Wants

IDLE_SAMPLE, SAMPLE = 8, 4  # replicas looked at


class Wakep:
    """Asks devices for a boundary; an idle one, else the one that would be through first."""

    def __init__(self, books: Books, wants: Wants, gangs: Gangs) -> None:
        self._books = books
        self._wants = wants
        self._gangs = gangs

    def __call__(self, ticket: Ticket, now: float) -> None:
        books, model = self._books, ticket.model
        if books.models[model].gang > 1:
            self._gangs.start(now)
            return
        replicas = books.replicas[model]
        idle = [d for d in books.sample(replicas, IDLE_SAMPLE) if d.id in books.idle]
        if idle:
            books.ask(min(idle, key=lambda d: (-d.speed, len(d.resident), d.index)))
            return
        wanting = []
        for device in books.sample(replicas, SAMPLE):
            eta = self._eta(device, ticket, now)
            if eta is not None:
                wanting.append((eta, device.index, device))
        if wanting:
            books.ask(min(wanting)[2])
        if not replicas or books.idle:
            self._wants.want(model, now)

    def _eta(self, device: Device, ticket: Ticket, now: float) -> float | None:
        """Seconds until the device would be through with the ticket; None: it would not take it."""
        books = self._books
        shape, members = books.shape(ticket), device.running.values()
        if device.gang is not None:
            self._gangs.contest(device, ticket)
            return None
        if not members:
            return left(ticket, shape) / device.speed
        rows = sum(t.rows for t in members)
        one = next(iter(members))
        step = books.shape(one).step(rows) / device.speed
        if one.queue == ticket.queue and self._joins(device, ticket, shape, now):
            return step + ticket.steps_left * shape.step(rows + ticket.rows) / device.speed
        if books.preemption and all(ticket.order < t.order for t in members):
            return step + ticket.steps_left * shape.step(ticket.rows) / device.speed
        return None

    def _joins(self, device: Device, ticket: Ticket, shape: Shape, now: float) -> bool:
        members = list(device.running.values())
        rows = sum(t.rows for t in members) + ticket.rows
        if rows > self._books.cap(device, shape):
            return False
        if not self._books.pressed(ticket.model):
            return len(members) == 1 and rescues(members[0], ticket, shape, now, device.speed)
        return all(rows <= limit(t, shape, now, device.speed) for t in (*members, ticket))
