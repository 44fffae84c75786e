"""The scheduler's core: which generation runs where, and when. Go's scheduler, for GPUs. Pure.

No function here may become async: everything between two awaits of the loops around it is atomic,
so there are no locks. Time comes in as `now` (seconds on one monotonic clock); nothing is read,
written or waited for. The loops feed events in (submit, boundary, loaded, device_down, tick, ...)
and carry out the decisions that come out; a decision is accounted for when it is returned.

    G  Ticket (a generation)     P  Device     M  the agent's step loop
    globrunq  one queue for each (model, shape); devices pull from it (late binding)
    wakep     at submit: the device that should look up at its next step boundary (wakep.py)
    schedule  `boundary`: what a device runs from this step on (schedule.py)
    sysmon    `tick`: loads that wait, prefetch, gangs, hosts (wants.py, gang.py, host.py)

The problem: a request may run where its model is resident, where memory is free, and next to others
of its shape; loading a model takes longer than running one. Designs refused, each measured:

- *A queue for each device, and stealing half of the neighbour's* (Go's own): 20 to 33 times the
  loads, since what is stolen needs its weights moved too.
- *Binding at submit*, by least load or estimated finish: bistable, good at one seed, collapsed at
  another.
- *Joining a batch whenever there is room*: see batching.py.

The race: a decision is made here, and carried out by a loop that may find the database disagrees (a
cancel came first). The loop then calls `finished`, which gives the device back; memory is derived
from what is bound (device.py), so no path can forget it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from scheduler.books import Books
from scheduler.decisions import Boundary, Decision
from scheduler.device import Device
from scheduler.gang import Gangs
from scheduler.model import Model, kept_within
from scheduler.placement import Placement
from scheduler.residency import Residency
from scheduler.runqueue import Late, Ticket, objective
from scheduler.schedule import Schedule
from scheduler.standing import Standing
from scheduler.wakep import Wakep
from scheduler.wants import Wants

RESERVE = 0.05  # of a device's memory, for what nobody declared


class Sched:
    """All queues and devices. Owned by one loop; called by nobody else."""

    def __init__(
        self, models: dict[str, Model], *, late: Late = Late.CASCADE, preemption: bool = True
    ) -> None:
        """`preemption`: whether the agents can take a generation off its device and resume it."""
        self.books = books = Books(models, late, preemption=preemption)
        self.models, self.devices, self.queues = books.models, books.devices, books.queues
        self.placement = Placement(books)
        self.residency = Residency(books, self.placement)
        self.wants = Wants(books, self.placement, self.residency)
        self.gangs = Gangs(books, self.placement, self.residency)
        self.standing = Standing(books, self.placement, self.residency, self.wants)
        self.drained, self.pinned = self.standing.drained, self.standing.pinned
        self._wakep = Wakep(books, self.wants, self.gangs)
        self._schedule = Schedule(books, self.wants, self.gangs)

    # Generations.

    def submit(self, ticket: Ticket, now: float) -> list[Decision]:
        """A generation waits, newly or again."""
        books, load = self.books, self.placement.load_seconds(ticket.model)
        self._prepare(ticket)
        if ticket.slo == math.inf:
            ticket.slo = objective(ticket.level, ticket.work)
        books.demand.arrived(ticket, load, now)
        ticket.due = ticket.submitted + ticket.slo
        ticket.key = ticket.due + books.fairness.arrived(
            ticket.id, ticket.tenant, ticket.level, ticket.work, books.speed
        )
        if not books.replicas[ticket.model] and ticket.cls > 0:
            loads = [max(now, d.load_ends) for d in books.loading[ticket.model]]
            end = min([now + load, *loads]) + ticket.work
            while not ticket.late and ticket.cls > 0 and end > ticket.due:
                if books.queues.overdue(ticket, end):
                    return books.take()
        books.queues.push(ticket)
        self._wakep(ticket, now)
        return books.take()

    def boundary(self, device_id: str, now: float) -> list[Decision]:
        """What a device runs from here on: joins, preemptions, or nothing.

        While it decodes, nothing: a batch that is about to leave has room for anybody, and would be
        joined past those who are more urgent. Ask again when it has `finished`.
        """
        device = self.devices.get(device_id)
        if device is not None and not device.decodes:
            self._schedule(device, now)
        return self.books.take()

    def advanced(self, ticket_id: str, device_id: str, steps_done: int) -> None:
        """A running one came so far: who may join it depends on what is left of it."""
        device = self.devices.get(device_id)
        ticket = device.running.get(ticket_id) if device else None
        if ticket is not None:
            ticket.steps_left = max(0, ticket.steps - steps_done)

    def finished(self, ticket: Ticket) -> None:
        """It needs its device no more, for good; ask `boundary` next."""
        device = self.devices.get(ticket.device)
        if device is not None:
            device.running.pop(ticket.id, None)
        self.books.bound.pop(ticket.id, None)
        if ticket.id in self.gangs.reserved:
            self.gangs.release(ticket)
        self.books.gone(ticket)

    def remove(self, ticket_id: str) -> bool:
        """Take a waiting one out (cancelled, expired); False where it waits nowhere."""
        ticket = self.queues.get(ticket_id)
        if ticket is None:
            return False
        self.queues.pop(ticket)
        self.books.gone(ticket)
        return True

    def adopt(self, ticket: Ticket, device_id: str, now: float) -> None:
        """A generation turned out to be running there already."""
        books, device = self.books, self.devices[device_id]
        self._prepare(ticket)
        ticket.due = ticket.key = ticket.submitted + objective(ticket.level, ticket.work)
        books.fairness.arrived(ticket.id, ticket.tenant, ticket.level, ticket.work, books.speed)
        if ticket.model not in device.resident:
            self.residency.loaded(device, ticket.model, now)
        ticket.device = device_id
        device.running[ticket.id] = ticket
        books.bound[ticket.id] = ticket
        books.idle.pop(device_id, None)

    def again(self, ticket: Ticket, now: float) -> list[Decision]:
        """What `device_down` returned waits again, with the steps that are left of it."""
        ticket.device = ""
        self.queues.push(ticket)
        self._wakep(ticket, now)
        return self.books.take()

    # Models.

    def loaded(self, device_id: str, model: str, now: float) -> list[Decision]:
        """A model is there: a load is done, or a report says so."""
        self.residency.loaded(self.devices[device_id], model, now)
        return self._look(device_id)

    def load_failed(self, device_id: str, model: str, now: float) -> list[Ticket]:
        """A load failed; what is given up, after too many in a row, is returned."""
        given_up = self.residency.load_failed(self.devices[device_id], model, now)
        for ticket in given_up:
            self.remove(ticket.id)
        return given_up

    def unloaded(self, device_id: str, model: str, now: float) -> list[Decision]:
        """A model is gone: as it was told to, or because its process was restarted."""
        self.residency.unloaded(self.devices[device_id], model, now)
        return self._look(device_id)

    def unload_refused(self, device_id: str, model: str, now: float) -> None:
        """It is still there; it is not asked to go again for a while."""
        self.residency.unload_refused(self.devices[device_id], model, now)

    def warmed(self, node: str, model: str) -> None:
        """A host's memory has a model that it was told to read."""
        self.books.hosts[node].warmed(model)

    def correct(self, model: Model) -> None:
        """A model turned out to cost something else; what was decided stands."""
        largest = max((device.capacity for device in self.devices.values()), default=math.inf)
        self.models[model.name] = kept_within(largest, model, self.models[model.name])
        self.queues.recount(model.name)
        for device in self.devices.values():
            if model.name in device.held:
                device.overdrawn = True

    # Devices.

    def device_up(
        self, device_id: str, node: str, capacity: float, now: float,
        *, speed: float = 1.0, resident: Iterable[str] = (),
    ) -> list[Decision]:  # fmt: skip
        """A device joined, with these models on it and nothing running. `capacity` in bytes."""
        usable = capacity * (1 - RESERVE)
        device = Device(device_id, node, usable, capacity, speed)
        self.standing.apply(device)
        self.books.join(device)
        for model in resident:
            if model in self.models:
                self.residency.loaded(device, model, now)
        return self._look(device_id)

    def host_up(self, node: str, capacity: float, held: Iterable[str] = ()) -> None:
        """A node's memory may hold so many bytes of weights, and has these models'."""
        self.books.host(node, capacity, held)

    def host_down(self, node: str) -> None:
        """A node's memory holds nothing for us any more."""
        self.books.hosts.pop(node, None)

    def quarantine(self, device_id: str, reason: str) -> list[Decision]:
        """Give it no new work while `reason` is not empty; others may load what was only there."""
        device = self.devices[device_id]
        return self._use(device, reason, device.drained)

    def device_down(self, device_id: str) -> list[Ticket]:
        """A device is gone. What was on it is returned; submit it again, or call `finished`."""
        device = self.devices.pop(device_id)
        self.books.idle.pop(device_id, None)
        self.books.speed -= device.speed
        gang = self.gangs.lost(device)
        self.residency.lost(device)
        lost = list(device.running.values())
        if gang is not None and gang.id not in device.running:
            lost.append(gang)
        for ticket in lost:
            self.books.bound.pop(ticket.id, None)
        return lost

    def tick(self, now: float) -> list[Decision]:
        """sysmon: loads for what waits, prefetch, gangs, hosts; and what was ordered."""
        for device in self.devices.values():
            if device.pinned:
                self.standing.restore_pins(device, now)
            if device.overdrawn:
                self.residency.settle(device, now)
        self.wants.tick(now)
        self.residency.warm(now)
        self.gangs.start(now)
        return self.books.take()

    # Operators' orders (standing.py). Each raises OrderRefusedError where it cannot be.

    def drain(self, device_id: str, reason: str) -> list[Decision]:
        """Let a device finish what it runs, and give it no new work."""
        self.drained[device_id] = reason
        device = self.devices.get(device_id)
        return self._use(device, device.quarantined, reason) if device else []

    def undrain(self, device_id: str) -> list[Decision]:
        """Give it work again."""
        self.drained.pop(device_id, None)
        device = self.devices.get(device_id)
        return self._use(device, device.quarantined, "") if device else []

    def pin(self, model: str, device_id: str, now: float) -> list[Decision]:
        """Keep a model on a device, and load it there where it is not, now or when it is back."""
        self.standing.pin(model, device_id, now)
        return self.books.take()

    def unpin(self, model: str, device_id: str) -> None:
        """Let its worth decide again."""
        self.pinned.get(device_id, set()).discard(model)

    def order_load(self, model: str, device_id: str, now: float) -> list[Decision]:
        """Load a model, on the device that is best for it where none is named."""
        self.standing.load(model, self.devices[device_id] if device_id else None, now)
        return self.books.take()

    def order_unload(self, model: str, device_id: str, now: float) -> list[Decision]:
        """Unload an idle resident."""
        self.standing.unload(model, self.devices[device_id], now)
        return self.books.take()

    def _prepare(self, ticket: Ticket) -> None:
        ticket.steps_left = ticket.steps_left or ticket.steps
        ticket.work = self.books.shape(ticket).work(ticket.steps, ticket.rows)
        ticket.cls, ticket.rank = ticket.level, 2 * (2 - ticket.level)

    def _use(self, device: Device, quarantined: str, drained: str) -> list[Decision]:
        """Change why a device takes no new work."""
        before, was_drained = device.usable, bool(device.drained)
        device.quarantined, device.drained = quarantined, drained
        if bool(drained) != was_drained:
            self.residency.drained_changed(device)
        if device.usable != before:
            self.residency.usable_changed(device)
        self.books.idle.pop(device.id, None)
        return self._look(device.id) if device.usable else self.books.take()

    def _look(self, device_id: str) -> list[Decision]:
        self.books.out.append(Boundary(device_id))
        return self.books.take()
