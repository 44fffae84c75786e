"""Gangs: k devices of one node taken together, for a model whose weights are split over them. Pure.

Groups are aligned (devices 0..k-1 of a node, k..2k-1, ...), so that two gangs never hold each
other's half. A gang is reserved all at once, and only when each member is idle or runs something
that is served later; each then stops at its next step boundary, so a reservation is fulfilled
within one step and cannot deadlock. The first member leads: it runs the batch, the others follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.device import Device
from scheduler.runqueue import Ticket

if TYPE_CHECKING:
    from scheduler.sched import Sched

Group = tuple[Device, ...]


class Gangs:
    """Reservations of groups. Part of the core."""

    def __init__(self, sched: Sched) -> None:
        self._sched = sched
        self.reserved: dict[str, tuple[Ticket, Group]] = {}  # by ticket id, waiting or running

    def groups(self, size: int) -> list[Group]:
        """The aligned groups of `size` usable devices."""
        nodes: dict[str, list[Device]] = {}
        for device in sorted(self._sched.devices.values(), key=lambda d: d.index):
            nodes.setdefault(device.node, []).append(device)
        return [
            tuple(devices[i : i + size])
            for devices in nodes.values()
            for i in range(0, len(devices) - size + 1, size)
        ]

    def homes(self, model: str) -> list[Group]:
        """Groups whose members all have their shard."""
        size = self._sched.models[model].gang
        return [g for g in self.groups(size) if all(model in d.resident and d.usable for d in g)]

    def start(self, now: float) -> None:
        """Reserve groups for the gangs that wait, the most urgent first; load what has no home."""
        sched = self._sched
        heads = []
        for queue in list(sched.queues):
            if sched.models[queue.key[0]].gang > 1:
                head = sched.queues.head(queue, now)
                if head is not None:
                    heads.append(head)
        for head in sorted(heads, key=lambda t: t.order):
            homes = self.homes(head.model)
            free = [g for g in homes if self._takes(g, head, now)]
            if free:
                best = min(free, key=lambda g: (sum(bool(d.running) for d in g), g[0].index))
                self._reserve(best, head, now)
                continue
            for device in (d for g in homes for d in g if not sched.fits(d, head)):
                sched.residency.evict_neighbour(device, head.model, now)
            if not homes or self._waits_long(head.model, len(homes)):
                sched.residency.load_group(head.model, self.groups(sched.models[head.model].gang),
                                           len(homes), now)  # fmt: skip

    def _waits_long(self, model: str, homes: int) -> bool:
        """Whether a model's queue outlasts a further load."""
        work = self._sched.queues.work[model]
        return work / homes > 1.5 * self._sched.models[model].load

    def _takes(self, group: Group, ticket: Ticket, now: float) -> bool:
        """Whether every member is idle, or runs something that is served later."""
        for device in group:
            if not device.usable:
                return False
            best = self._sched.best(device, now)
            if best is not None and best.order < ticket.order:
                return False
            if not self._sched.fits(device, ticket):
                return False
            if device.gang is not None:
                holder = device.gang
                if not (holder.id in self._sched.bound and ticket.order < holder.order):
                    return False
            elif any(t.order < ticket.order for t in device.running.values()):
                return False
        return True

    def _reserve(self, group: Group, ticket: Ticket, now: float) -> None:
        sched = self._sched
        held = {d.gang.id for d in group if d.gang is not None}
        if held:  # a gang that runs there stops first; the next look finds them idle
            for holder in held:
                sched.ask(self.reserved[holder][1][0])
            return
        sched.queues.pop(ticket)
        self.reserved[ticket.id] = ticket, group
        for device in group:
            device.gang = ticket
            sched.idle.pop(device.id, None)
        for device in group:
            sched.ask(device)
        del now

    def at_boundary(self, device: Device, now: float) -> None:
        """A reserved device stopped: once all of its group have, the leader takes the ticket."""
        assert device.gang is not None
        ticket, group = self.reserved[device.gang.id]
        sched = self._sched
        if ticket.id in group[0].running:
            if device is group[0]:  # the others follow
                self._maybe_preempt(ticket, group, now)
            return
        for other in list(device.running.values()):
            sched.preempt(device, other, f"its device is taken for the gang of {ticket.id}")
        if any(d.running for d in group):
            return
        if not all(sched.fits(d, ticket) for d in group):  # a load took the room meanwhile
            self.release(ticket)
            sched.queues.push(ticket)
        else:
            for d in group[1:]:
                d.resident[ticket.model] = now
                d.following = ticket
            sched.bind(group[0], ticket, now, "it leads its gang: every member is free")
            if device is not group[0]:
                sched.ask(group[0])

    def _maybe_preempt(self, ticket: Ticket, group: Group, now: float) -> None:
        """More urgent work on any member takes the whole gang off at this boundary."""
        sched = self._sched
        for device in group:
            best = sched.best(device, now)
            if best is not None and best.order < ticket.order:
                sched.preempt(group[0], ticket, "a member has more urgent work")
                self.release(ticket)
                return
        for queue in list(sched.queues):
            if sched.models[queue.key[0]].gang > 1:
                head = sched.queues.head(queue, now)
                if head is None or head.order >= ticket.order:
                    continue
                for other in self.homes(head.model):
                    if set(other) & set(group) and self._takes(other, head, now):
                        sched.preempt(group[0], ticket, f"the gang of {head.id} is more urgent")
                        self.release(ticket)
                        self._reserve(other, head, now)
                        return

    def release(self, ticket: Ticket) -> None:
        """Its group is free again."""
        _, group = self.reserved.pop(ticket.id)
        for device in group:
            device.gang = device.following = None
            if device.id in self._sched.devices:
                self._sched.ask(device)

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
