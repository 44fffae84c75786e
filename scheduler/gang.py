"""Gangs: k devices of one node taken together, for a model whose weights are split over them. Pure.

Groups are aligned (devices 0..k-1 of a node, k..2k-1, ...), so that two gangs never hold each
other's half. A gang is reserved all at once, and only when each member is idle or runs something
that is served later; each then stops at its next step boundary, so a reservation is fulfilled
within one step and cannot deadlock. The first member leads: it runs the batch, the others follow.
"""

from __future__ import annotations

from scheduler.books import Books
from scheduler.device import Device
from scheduler.placement import Placement
from scheduler.residency import Residency
from scheduler.runnable import find_runnable
from scheduler.runqueue import Ticket

Group = tuple[Device, ...]


class Gangs:
    """Reservations of groups. Part of the core."""

    def __init__(self, books: Books, placement: Placement, residency: Residency) -> None:
        self._books = books
        self._placement = placement
        self._residency = residency
        self._any = any(model.gang > 1 for model in books.models.values())
        self.reserved: dict[str, tuple[Ticket, Group]] = {}  # by ticket id, waiting or running

    def groups(self, size: int) -> list[Group]:
        """The aligned groups of `size` usable devices."""
        nodes: dict[str, list[Device]] = {}
        for device in sorted(self._books.devices.values(), key=lambda d: d.index):
            nodes.setdefault(device.node, []).append(device)
        return [
            tuple(devices[i : i + size])
            for devices in nodes.values()
            for i in range(0, len(devices) - size + 1, size)
        ]

    def homes(self, model: str) -> list[Group]:
        """Groups whose members all have their shard."""
        size = self._books.models[model].gang
        return [g for g in self.groups(size) if all(model in d.resident and d.usable for d in g)]

    def start(self, now: float) -> None:
        """Reserve groups for the gangs that wait, the most urgent first; load what has no home."""
        if not self._any:
            return
        books = self._books
        heads = []
        for queue in list(books.queues):
            if books.models[queue.key[0]].gang > 1:
                head = books.queues.head(queue, now)
                if head is not None:
                    heads.append(head)
        for head in sorted(heads, key=lambda t: t.order):
            homes = self.homes(head.model)
            free = [g for g in homes if self._takes(g, head, now)]
            if free:
                best = min(free, key=lambda g: (sum(bool(d.running) for d in g), g[0].index))
                self._reserve(best, head)
                continue
            for device in (d for g in homes for d in g if not books.fits(d, head)):
                self._residency.make_room(
                    device, head.model, now, f"its place is needed to run {head.model}"
                )
            if not homes or self._waits_long(head.model, len(homes)):
                self._load(head.model, now)

    def _waits_long(self, model: str, homes: int) -> bool:
        """Whether a model's queue outlasts a further load."""
        work = self._books.queues.work[model]
        return work / homes > 1.5 * self._books.models[model].load

    def _takes(self, group: Group, ticket: Ticket, now: float) -> bool:
        """Whether every member is idle, or runs something that is served later."""
        for device in group:
            if not device.usable:
                return False
            best = find_runnable(self._books, device, now)
            if best is not None and best.order < ticket.order:
                return False
            if not self._books.fits(device, ticket):
                return False
            if device.gang is not None:
                holder = device.gang
                if not (holder.id in self._books.bound and ticket.order < holder.order):
                    return False
            elif any(t.order < ticket.order for t in device.running.values()):
                return False
        return True

    def _reserve(self, group: Group, ticket: Ticket) -> None:
        books = self._books
        held = {d.gang.id for d in group if d.gang is not None}
        if held:  # a gang that runs there stops first; the next look finds them idle
            for holder in held:
                books.ask(self.reserved[holder][1][0])
            return
        books.queues.pop(ticket)
        self.reserved[ticket.id] = ticket, group
        for device in group:
            device.gang = ticket
            books.idle.pop(device.id, None)
        for device in group:
            books.ask(device)

    def contest(self, device: Device, ticket: Ticket) -> None:
        """More urgent work came for a device that a gang has: its leader looks up."""
        assert device.gang is not None
        holder, group = self.reserved[device.gang.id]
        books = self._books
        if books.preemption and ticket.order < holder.order and holder.id in books.bound:
            books.ask(group[0])

    def at_boundary(self, device: Device, now: float) -> None:
        """A reserved device stopped: once all of its group have, the leader takes the ticket."""
        assert device.gang is not None
        ticket, group = self.reserved[device.gang.id]
        books = self._books
        if ticket.id in group[0].running:
            if device is group[0]:  # the others follow
                self._maybe_preempt(ticket, group, now)
            return
        for other in list(device.running.values()):
            books.preempt(device, other, f"its device is taken for the gang of {ticket.id}")
        if any(d.running for d in group):
            return
        if not all(books.fits(d, ticket) for d in group):  # a load took the room meanwhile
            self.release(ticket)
            books.queues.push(ticket)
        else:
            for d in group[1:]:
                d.resident[ticket.model] = now
                d.following = ticket
            books.bind(group[0], ticket, now, "it leads its gang: every member is free")
            if device is not group[0]:
                books.ask(group[0])

    def _maybe_preempt(self, ticket: Ticket, group: Group, now: float) -> None:
        """More urgent work on any member takes the whole gang off at this boundary."""
        books = self._books
        for device in group:
            best = find_runnable(books, device, now)
            if best is not None and best.order < ticket.order:
                books.preempt(group[0], ticket, "a member has more urgent work")
                self.release(ticket)
                return
        for queue in list(books.queues):
            if books.models[queue.key[0]].gang > 1:
                head = books.queues.head(queue, now)
                if head is None or head.order >= ticket.order:
                    continue
                for other in self.homes(head.model):
                    if set(other) & set(group) and self._takes(other, head, now):
                        books.preempt(group[0], ticket, f"the gang of {head.id} is more urgent")
                        self.release(ticket)
                        self._reserve(other, head)
                        return

    def _load(self, model: str, now: float) -> None:
        """Load the shards on the group where that displaces least, if there is one."""
        books = self._books
        if books.loading[model]:
            return
        found = []
        for group in self.groups(books.models[model].gang):
            costs = [self._cost(model, device, now) for device in group]
            fits = [cost for cost in costs if cost is not None]
            if len(fits) == len(group) and not all(model in d.resident for d in group):
                found.append((sum(c for c, _ in fits), group[0].index, group, fits))
        if not found:
            return
        _, _, group, fits = min(found, key=lambda f: f[:2])
        for device, (_, victims) in zip(group, fits, strict=True):
            if model not in device.resident:
                why = "its shard, for the gang that waits"
                self._residency.load(model, device, victims, now, why)

    def _cost(self, model: str, device: Device, now: float) -> tuple[float, list[str]] | None:
        """What the shard displaces there; None where it cannot be loaded."""
        if model in device.resident:
            return 0.0, []
        if device.loading or device.unloading or not device.usable:
            return None
        return self._placement.victims(model, device, now)

    def release(self, ticket: Ticket) -> None:
        """Its group is free again."""
        _, group = self.reserved.pop(ticket.id)
        for device in group:
            device.gang = device.following = None
            if device.id in self._books.devices:
                self._books.ask(device)

    def lost(self, device: Device) -> Ticket | None:
        """A member is gone: the others are free; the ticket that they held, if it runs nowhere."""
        if device.gang is None:
            return None
        ticket, group = self.reserved[device.gang.id]
        running = ticket.id in group[0].running
        if running and group[0] is not device:
            del group[0].running[ticket.id]
        self.release(ticket)
        return None if running and group[0] is device else ticket
