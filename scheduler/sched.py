"""The scheduler's core: which generation runs where, and when. Go's scheduler, for GPUs. Pure.

No function here may become async: everything between two awaits of the loops around it is atomic,
so there are no locks. Time comes in as `now` (seconds on one monotonic clock); nothing is read,
written or waited for. The loops feed events in (submit, boundary, loaded, device_down, tick, ...)
and carry out the decisions that come out; a decision is accounted for when it is returned.

    G  Ticket (a generation)     P  Device     M  the agent's step loop
    globrunq  one queue for each (model, shape); devices pull from it (late binding)
    wakep     at submit: the device that should look up at its next step boundary
    schedule  `boundary`: what a device runs from this step on
    sysmon    `tick`: loads that wait, prefetch, gangs

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

from scheduler.batching import MOST_SKIPS, left, limit, rescues
from scheduler.decisions import Bind, Boundary, Decision, Preempt, Reject
from scheduler.device import Device
from scheduler.fairness import Fairness
from scheduler.gang import Gangs
from scheduler.model import Model, Shape
from scheduler.residency import Residency
from scheduler.runqueue import Late, RunQueues, Ticket, objective

PRESSURE = 5.0  # seconds of queued work a replica: from here on batches pay
SAMPLE = 4  # replicas looked at by wakep
OLDEST_EVERY = 61  # Go's schedtick % 61: an idle device then serves the oldest, of any class
STARVING = 300.0  # seconds of waiting from which on that is so
RESERVE = 0.05  # of a device's memory, for what nobody declared


class Sched:
    """All queues and devices. Owned by one loop; called by nobody else."""

    def __init__(
        self, models: dict[str, Model], *, late: Late = Late.CASCADE, preemption: bool = True
    ) -> None:
        """`preemption`: whether the agents can take a generation off its device and resume it."""
        self.models = models
        self.preemption = preemption
        self.devices: dict[str, Device] = {}
        self.idle: dict[str, Device] = {}
        self.bound: set[str] = set()  # ids of what is on a device
        self.queues = RunQueues(late, self.left, self._settled, self._rejected)
        self.fairness = Fairness()
        self.residency = Residency(self)
        self.gangs = Gangs(self)
        self.out: list[Decision] = []
        self.pinned: dict[str, set[str]] = {}  # by device, also one that is away
        self.drained: dict[str, str] = {}
        self._turn = 0
        self._speed = 0.0  # of the whole fleet
        self._has_gangs = any(model.gang > 1 for model in models.values())

    # Events in.

    def submit(self, ticket: Ticket, now: float) -> list[Decision]:
        """A generation waits, newly or again."""
        shape, residency = self.shape(ticket), self.residency
        ticket.steps_left = ticket.steps_left or ticket.steps
        ticket.work = shape.work(ticket.steps, ticket.rows)
        ticket.cls, ticket.rank = ticket.level, 2 * (2 - ticket.level)
        if ticket.slo == math.inf:
            ticket.slo = objective(ticket.level, ticket.work)
        residency.demand.arrived(ticket, residency.load_seconds(ticket.model), now)
        ticket.due = ticket.submitted + ticket.slo
        ticket.key = ticket.due + self.fairness.arrived(
            ticket.id, ticket.tenant, ticket.level, ticket.work, self._speed
        )
        if not residency.replicas[ticket.model] and ticket.cls > 0:
            ready = residency.ready_at(ticket.model, now)
            while not ticket.late and ticket.cls > 0 and ready + ticket.work > ticket.due:
                if self.queues.overdue(ticket):
                    return self._take()
        self.queues.push(ticket)
        self._wakep(ticket, now)
        return self._take()

    def boundary(self, device_id: str, now: float) -> list[Decision]:
        """What a device runs from here on: joins, preemptions, or nothing."""
        device = self.devices.get(device_id)
        if device is not None:
            self._schedule(device, now)
        return self._take()

    def finished(self, ticket: Ticket) -> None:
        """It needs its device no more, for good; ask `boundary` next."""
        device = self.devices.get(ticket.device)
        if device is not None:
            device.running.pop(ticket.id, None)
        self.bound.discard(ticket.id)
        if ticket.id in self.gangs.reserved:
            self.gangs.release(ticket)
        self._gone(ticket)

    def remove(self, ticket_id: str) -> bool:
        """Take a waiting one out (cancelled, expired); False where it waits nowhere."""
        ticket = self.queues.get(ticket_id)
        if ticket is None:
            return False
        self.queues.pop(ticket)
        self._gone(ticket)
        return True

    def loaded(self, device_id: str, model: str, now: float) -> list[Decision]:
        """A model is there: a load is done, or a report says so."""
        self.residency.loaded(self.devices[device_id], model, now)
        self.out.append(Boundary(device_id))
        return self._take()

    def load_failed(self, device_id: str, model: str, now: float) -> list[Ticket]:
        """A load failed; what is given up, after too many in a row, is returned."""
        given_up = self.residency.load_failed(self.devices[device_id], model, now)
        for ticket in given_up:
            self.remove(ticket.id)
        return given_up

    def unloaded(self, device_id: str, model: str, now: float) -> list[Decision]:
        """A model is gone: as it was told to, or because its process was restarted."""
        self.residency.unloaded(self.devices[device_id], model)
        self.out.append(Boundary(device_id))
        return self._take()

    def unload_refused(self, device_id: str, model: str, now: float) -> None:
        """It is still there; it is not asked to go again for a while."""
        self.residency.unload_refused(self.devices[device_id], model, now)

    def device_up(
        self, device_id: str, node: str, capacity: float, now: float,
        *, speed: float = 1.0, resident: Iterable[str] = (),
    ) -> list[Decision]:  # fmt: skip
        """A device joined, with these models on it and nothing running. `capacity` in bytes."""
        self._turn += 1
        usable = capacity * (1 - RESERVE)
        device = Device(device_id, node, usable, capacity, speed, index=self._turn)
        device.pinned = self.pinned.setdefault(device_id, set())
        device.drained = self.drained.get(device_id, "")
        self.devices[device_id] = device
        self._speed += speed
        if device.usable:
            self.idle[device_id] = device
        for model in resident:
            if model in self.models:
                self.residency.loaded(device, model, now)
        self.out.append(Boundary(device_id))
        return self._take()

    def adopt(self, ticket: Ticket, device_id: str, now: float) -> None:
        """A generation turned out to be running there already."""
        device = self.devices[device_id]
        ticket.steps_left = ticket.steps_left or ticket.steps
        ticket.work = self.shape(ticket).work(ticket.steps, ticket.rows)
        ticket.cls, ticket.rank = ticket.level, 2 * (2 - ticket.level)
        ticket.due = ticket.key = ticket.submitted + objective(ticket.level, ticket.work)
        self.fairness.arrived(ticket.id, ticket.tenant, ticket.level, ticket.work, self._speed)
        if ticket.model not in device.resident:
            self.residency.loaded(device, ticket.model, now)
        ticket.device = device_id
        device.running[ticket.id] = ticket
        self.bound.add(ticket.id)
        self.idle.pop(device_id, None)

    def quarantine(self, device_id: str, reason: str) -> list[Decision]:
        """Give it no new work while `reason` is not empty; others may load what was only there."""
        self._out_of_use(self.devices[device_id], quarantined=reason)
        return self._take()

    # Operators' orders. They outlive the device: it finds them when it comes back.

    def drain(self, device_id: str, reason: str) -> list[Decision]:
        """Let a device finish what it runs, and give it no new work."""
        self.drained[device_id] = reason
        if device := self.devices.get(device_id):
            self._out_of_use(device, drained=reason)
        return self._take()

    def undrain(self, device_id: str) -> list[Decision]:
        """Give it work again."""
        self.drained.pop(device_id, None)
        if device := self.devices.get(device_id):
            self._out_of_use(device, drained="")
        return self._take()

    def pin(self, model: str, device_id: str, now: float) -> list[Decision]:
        """Keep a model on a device, and load it there where it is not, now or when it comes back.

        Raises:
            OrderRefusedError: the device has no room for it beside what is pinned there.
        """
        device = self.devices.get(device_id)
        if device is not None:
            self.residency.check_pin(model, device)
        self.pinned.setdefault(device_id, set()).add(model)
        if device is not None:
            self.residency.restore_pins(device, now)
        return self._take()

    def unpin(self, model: str, device_id: str) -> None:
        """Let its worth decide again."""
        self.pinned.get(device_id, set()).discard(model)

    def order_load(self, model: str, device_id: str, now: float) -> list[Decision]:
        """Load a model, on the device that is best for it where none is named.

        Raises:
            OrderRefusedError: it cannot be.
        """
        self.residency.order_load(model, self.devices[device_id] if device_id else None, now)
        return self._take()

    def order_unload(self, model: str, device_id: str, now: float) -> list[Decision]:
        """Unload an idle resident. Raises OrderRefusedError."""
        self.residency.order_unload(model, self.devices[device_id], now)
        return self._take()

    def correct(self, model: Model) -> None:
        """A model turned out to cost something else; what was decided stands."""
        self.models[model.name] = model
        self.queues.recount(model.name)
        for device in self.devices.values():
            if model.name in device.resident or model.name == device.loading:
                device.overdrawn = True

    def _out_of_use(
        self, device: Device, *, quarantined: str | None = None, drained: str | None = None
    ) -> None:
        """Change why a device takes no new work; others may load what was only there."""
        before = device.usable
        if quarantined is not None:
            device.quarantined = quarantined
        if drained is not None:
            device.drained = drained
        if device.usable != before:
            self.residency.usable_changed(device)
        self.idle.pop(device.id, None)
        if device.usable:
            self.ask(device)

    def device_down(self, device_id: str) -> list[Ticket]:
        """A device is gone. What was on it is returned; submit it again, or call `finished`."""
        device = self.devices.pop(device_id)
        self.idle.pop(device_id, None)
        self._speed -= device.speed
        gang = self.gangs.lost(device)
        self.residency.lost(device)
        lost = list(device.running.values())
        if gang is not None and gang.id not in device.running:
            lost.append(gang)
        for ticket in lost:
            self.bound.discard(ticket.id)
        return lost

    def again(self, ticket: Ticket, now: float) -> list[Decision]:
        """What `device_down` returned waits again, with the steps that are left of it."""
        ticket.device = ""
        self.queues.push(ticket)
        self._wakep(ticket, now)
        return self._take()

    def tick(self, now: float) -> list[Decision]:
        """sysmon: loads for what waits, prefetch, gangs."""
        self.residency.tick(now)
        if self._has_gangs:
            self.gangs.start(now)
        return self._take()

    # wakep: who should look up.

    def _wakep(self, ticket: Ticket, now: float) -> None:
        model = ticket.model
        if self.models[model].gang > 1:
            self.gangs.start(now)
            return
        replicas = self.residency.replicas[model]
        idle = [d for d in self.sample(replicas, 8) if d.id in self.idle]
        if idle:
            self.ask(min(idle, key=lambda d: (-d.speed, len(d.resident), d.index)))
            return
        wanting = []
        for device in self.sample(replicas, SAMPLE):
            eta = self._eta(device, ticket, now)
            if eta is not None:
                wanting.append((eta, device.index, device))
        if wanting:
            self.ask(min(wanting)[2])
        if not replicas or self.idle:
            self.residency.want(model, now)

    def _eta(self, device: Device, ticket: Ticket, now: float) -> float | None:
        """Seconds until the device would be through with the ticket; None: it would not take it."""
        shape, members = self.shape(ticket), device.running.values()
        if device.gang is not None:
            holder, group = self.gangs.reserved[device.gang.id]
            if self.preemption and ticket.order < holder.order and holder.id in self.bound:
                self.ask(group[0])
            return None
        if not members:
            return left(ticket, shape) / device.speed
        rows = sum(t.rows for t in members)
        one = next(iter(members))
        step = self.shape(one).step(rows) / device.speed
        if one.queue == ticket.queue and self._joins(device, ticket, shape, now):
            return step + ticket.steps_left * shape.step(rows + ticket.rows) / device.speed
        if self.preemption and all(ticket.order < t.order for t in members):
            return step + ticket.steps_left * shape.step(ticket.rows) / device.speed
        return None

    def _joins(self, device: Device, ticket: Ticket, shape: Shape, now: float) -> bool:
        members = list(device.running.values())
        rows = sum(t.rows for t in members) + ticket.rows
        if rows > self._cap(device, shape):
            return False
        if not self._pressed(ticket.model):
            return len(members) == 1 and rescues(members[0], ticket, shape, now, device.speed)
        return all(rows <= limit(t, shape, now, device.speed) for t in (*members, ticket))

    # schedule: what a device runs.

    def _schedule(self, device: Device, now: float) -> None:
        if device.gang is not None:
            self.gangs.at_boundary(device, now)
            if device.gang is not None:
                return
        staying = list(device.running.values())
        best = self.best(device, now) if device.usable else None
        if best is None and not staying:
            if device.usable:
                self.idle[device.id] = device
                if self._has_gangs:
                    self.gangs.start(now)
                self.residency.idle(device, now)
            return
        lead = min(staying, key=lambda t: t.order) if staying else None
        if lead is None or (self.preemption and best is not None and best.order < lead.order):
            assert best is not None
            self._lead_with(device, best, staying, now)
        self._fill(device, best, now)
        self.idle.pop(device.id, None)

    def best(self, device: Device, now: float) -> Ticket | None:
        """The first among the queues of what is resident; now and then the oldest.

        What would not fit beside the weights that are there is passed over; residency makes room.
        """
        oldest = device.schedtick % OLDEST_EVERY == 0 and not device.running
        long_ago = now - STARVING
        best: Ticket | None = None
        for model in device.resident:
            if not self.queues.count[model] or self.models[model].gang > 1:
                continue
            for queue in list(self.queues.by_model[model].values()):
                head = self.queues.head(queue, now)
                if head is None or not self.fits(device, head):
                    continue
                if best is None:
                    best = head
                elif oldest and min(head.submitted, best.submitted) < long_ago:
                    best = head if head.submitted < best.submitted else best
                elif head.order < best.order:
                    best = head
        if best is not None and device.yield_to is not None and best.order > device.yield_to:
            return None
        return best

    def _lead_with(self, device: Device, leader: Ticket, staying: list[Ticket], now: float) -> None:
        """The leader runs; those stay beside it that share its queue and leave it its slack."""
        shape = self.shape(leader)
        device.schedtick += 1
        self.queues.pop(leader)
        rows = leader.rows
        room = min(limit(leader, shape, now, device.speed), self._cap(device, shape))
        for ticket in sorted(staying, key=lambda t: t.order):
            own = limit(ticket, shape, now, device.speed) if ticket.queue == leader.queue else 0.0
            if rows + ticket.rows <= min(room, own):
                rows += ticket.rows
                room = min(room, own)
            else:
                self.preempt(device, ticket, f"{leader.id} is more urgent")
        self.bind(device, leader, now, "it leads: the first of its device's queues")

    def _fill(self, device: Device, best: Ticket | None, now: float) -> None:
        """Who else joins the batch."""
        members = list(device.running.values())
        one = members[0]
        shape, queue = self.shape(one), self.queues.queue(one.queue)
        rows = sum(t.rows for t in members)
        cap = self._cap(device, shape)
        if queue is None or not len(queue) or rows >= cap or not device.usable:
            return
        if not self.preemption and best is not None and best.queue != one.queue:
            return  # else it would wait for as long as others join
        if device.yield_to is not None:
            return
        speed = device.speed
        if not self._pressed(one.model):
            head = self.queues.head(queue, now)
            if head is None or rows + head.rows > cap:
                return
            saved = len(members) == 1 and rescues(one, head, shape, now, speed)
            # Without preemption the more urgent cannot lead; it joins where all keep their slack.
            urgent = all(head.order < t.order for t in members) and all(
                rows + head.rows <= limit(t, shape, now, speed) for t in (*members, head)
            )
            if saved or urgent:
                self.queues.pop(head)
                why = "alone it would be late" if saved else "more urgent, and all keep their slack"
                self.bind(device, head, now, f"it joins: {why}")
            return
        room = min(limit(t, shape, now, speed) for t in members)
        skipped: list[Ticket] = []
        while rows < min(cap, room) and len(skipped) < MOST_SKIPS:
            head = self.queues.head(queue, now)
            if head is None:
                break
            self.queues.pop(head)
            own = limit(head, shape, now, speed)
            if rows + head.rows <= min(cap, room, own):
                self.bind(device, head, now, "it joins: work queues up, and all keep their slack")
                rows += head.rows
                room = min(room, own)
            else:
                skipped.append(head)
        for ticket in skipped:
            self.queues.push(ticket)

    # For the parts of the core.

    def bind(self, device: Device, ticket: Ticket, now: float, reason: str) -> None:
        """The device takes a ticket that waits nowhere any more."""
        device.running[ticket.id] = ticket
        device.resident[ticket.model] = now
        ticket.device = device.id
        self.bound.add(ticket.id)
        self.fairness.bound(ticket.id)
        self.out.append(Bind(ticket, device.id, reason))

    def preempt(self, device: Device, ticket: Ticket, reason: str) -> None:
        """The device gives a ticket back to its queue."""
        del device.running[ticket.id]
        self.bound.discard(ticket.id)
        self.queues.push(ticket)
        self.out.append(Preempt(ticket, device.id, reason))

    def ask(self, device: Device) -> None:
        """Have the device look up at its next step boundary."""
        self.out.append(Boundary(device.id))

    def sample(self, devices: list[Device], most: int) -> list[Device]:
        """At most so many of them, another part each time."""
        if len(devices) <= most:
            return devices
        self._turn += 1
        start, stride = self._turn % len(devices), max(1, len(devices) // most)
        return [devices[(start + i * stride) % len(devices)] for i in range(most)]

    def shape(self, ticket: Ticket) -> Shape:
        return self.models[ticket.model].shapes[ticket.shape]

    def left(self, ticket: Ticket) -> float:
        """Seconds of work that are left of it, alone, at speed 1."""
        return left(ticket, self.models[ticket.model].shapes[ticket.shape])

    def fits(self, device: Device, ticket: Ticket) -> bool:
        """Whether its activations fit beside the weights that are there."""
        return ticket.rows <= self._cap(device, self.shape(ticket))

    def _cap(self, device: Device, shape: Shape) -> int:
        """Rows that fit: by the profile, and by memory beside all weights."""
        if shape.activation <= 0:
            return shape.batch_cap
        room = device.capacity - device.weights(self.models)
        return min(shape.batch_cap, int(room / shape.activation + 1e-9))

    def _pressed(self, model: str) -> bool:
        work = self.queues.work[model]
        return work / max(1, len(self.residency.replicas[model])) >= PRESSURE

    def _settled(self, ticket: Ticket) -> None:
        self.residency.demand.settled(ticket)

    def _rejected(self, ticket: Ticket) -> None:
        self._gone(ticket)
        self.out.append(Reject(ticket))

    def _gone(self, ticket: Ticket) -> None:
        self.residency.demand.settled(ticket)
        self.fairness.gone(ticket.id, ticket.tenant)

    def _take(self) -> list[Decision]:
        taken, self.out = self.out, []
        return taken
