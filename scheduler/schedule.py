"""What a device runs from its next step on. Go's schedule and findRunnable. Pure.

The sources, in order: the gang that its group is reserved for; what it runs already, unless a more
urgent ticket waits for a resident model (preemption, at a step boundary and for next to nothing: a
paused generation is its latents); the first of the queues of all resident models, and every 61st
time the oldest; then, with nothing to run, room for a ticket that does not fit beside its
neighbours, or loads of models that are waited for. While a load is under way the device goes on
with what is resident (handoff).
"""

from __future__ import annotations

from scheduler.batching import MOST_SKIPS, limit, rescues
from scheduler.books import Books
from scheduler.device import Device
from scheduler.gang import Gangs
from scheduler.runnable import find_runnable
from scheduler.runqueue import Ticket
from scheduler.wants import Wants


class Schedule:
    """Decides at a boundary. Part of the core."""

    def __init__(self, books: Books, wants: Wants, gangs: Gangs) -> None:
        self._books = books
        self._wants = wants
        self._gangs = gangs

    def __call__(self, device: Device, now: float) -> None:
        books = self._books
        if device.gang is not None:
            self._gangs.at_boundary(device, now)
            if device.gang is not None:
                return
        staying = list(device.running.values())
        best = find_runnable(books, device, now) if device.usable else None
        if best is None and not staying:
            if device.usable:
                books.idle[device.id] = device
                self._gangs.start(now)
                self._wants.idle(device, now)
            return
        lead = min(staying, key=lambda t: t.order) if staying else None
        if lead is None or (books.preemption and best is not None and best.order < lead.order):
            assert best is not None
            self._lead_with(device, best, staying, now)
        self._fill(device, best, now)
        books.idle.pop(device.id, None)

    def _lead_with(self, device: Device, leader: Ticket, staying: list[Ticket], now: float) -> None:
        """The leader runs; those stay beside it that share its queue and leave it its slack."""
        books = self._books
        shape = books.shape(leader)
        device.schedtick += 1
        books.queues.pop(leader)
        rows = leader.rows
        room = min(limit(leader, shape, now, device.speed), books.cap(device, shape))
        for ticket in sorted(staying, key=lambda t: t.order):
            own = limit(ticket, shape, now, device.speed) if ticket.queue == leader.queue else 0.0
            if rows + ticket.rows <= min(room, own):
                rows += ticket.rows
                room = min(room, own)
            else:
                books.preempt(device, ticket, f"{leader.id} is more urgent")
        books.bind(device, leader, now, "it leads: the first of its device's queues")

    def _fill(self, device: Device, best: Ticket | None, now: float) -> None:
        """Who else joins the batch."""
        books = self._books
        members = list(device.running.values())
        one = members[0]
        shape, queue = books.shape(one), books.queues.queue(one.queue)
        if queue is None or not len(queue) or not device.usable or device.yield_to is not None:
            return
        if device.bars(one.model, now):
            return
        if not books.preemption and best is not None and best.queue != one.queue:
            return  # else it would wait for as long as others join
        rows = sum(t.rows for t in members)
        cap = books.cap(device, shape)
        if rows >= cap:
            return
        if not books.pressed(one.model):
            self._join_one(device, cap, now)
            return
        room = min(limit(t, shape, now, device.speed) for t in members)
        skipped: list[Ticket] = []
        while rows < min(cap, room) and len(skipped) < MOST_SKIPS:
            head = books.queues.head(queue, now)
            if head is None:
                break
            books.queues.pop(head)
            own = limit(head, shape, now, device.speed)
            if rows + head.rows <= min(cap, room, own):
                books.bind(device, head, now, "it joins: work queues up, and all keep their slack")
                rows += head.rows
                room = min(room, own)
            else:
                skipped.append(head)
        for ticket in skipped:
            books.queues.push(ticket)

    def _join_one(self, device: Device, cap: int, now: float) -> None:
        """Where no work queues up, only a newcomer joins that needs to."""
        books, speed = self._books, device.speed
        members = list(device.running.values())
        one = members[0]
        shape, queue = books.shape(one), books.queues.queue(one.queue)
        head = books.queues.head(queue, now) if queue is not None else None
        rows = sum(t.rows for t in members)
        if head is None or rows + head.rows > cap:
            return
        if len(members) == 1 and rescues(one, head, shape, now, speed):
            why = "alone it would be late"
        # Without preemption the more urgent cannot lead; it joins where all keep their slack.
        elif all(head.order < t.order for t in members) and all(
            rows + head.rows <= limit(t, shape, now, speed) for t in (*members, head)
        ):
            why = "more urgent, and all keep their slack"
        else:
            return
        books.queues.pop(head)
        books.bind(device, head, now, f"it joins: {why}")
