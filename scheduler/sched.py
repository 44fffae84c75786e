"""The scheduler's core: which generation runs where, and when. Go's scheduler, for GPUs. Pure.

No function here may become async: everything between two awaits of the loops around it is atomic,
so there are no locks. Time comes in as `now` (seconds on one monotonic clock); nothing is read,
written or waited for. The loops feed events in (submit, device_up, loaded, released, ...), call
`schedule`, and carry out the decisions that come out.

    G  Ticket (a generation)     P  Device     M  the agent's step loop
    globrunq  RunQueues: one queue for each (model, shape); devices pull from it
    runnext   the ticket that a device's load is for; it leads once the load is done

The problem: a request may run where its model is resident, where memory is free, and next to
others of its shape; loading a model takes longer than running one. Designs refused:

- *A queue for each device, and stealing half of the neighbour's* (Go's own). Measured on the
  scenarios: 20 to 33 times the loads, since what is stolen needs its weights moved too.
- *Binding at submit, by least load or by estimated finish.* Bistable: good at one seed, collapsed
  at another. Late binding has no such mode.
- *Joining a running batch whenever there is room.* Starves the other models resident there; so a
  batch is joined only by a ticket that is also first among all that this device could run.

The race: a decision is made here, and carried out by a loop that may find the database disagrees
(a cancel came first). The loop then calls `drop`, which gives the device back; memory is derived
from what is bound (device.py), so no path can forget it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler import placement
from scheduler.device import Cards, Device
from scheduler.runqueue import RunQueues, Ticket

LOAD_BACKOFF_SECONDS = 2.0  # doubles with each failure in a row on that device
MAX_LOAD_FAILURES = 3  # then the ticket that asked for it fails


@dataclass(frozen=True)
class Bind:
    """Run this generation on this device."""

    ticket: Ticket
    device_id: str


@dataclass(frozen=True)
class Load:
    """Load this model on this device; `ticket` waits for it."""

    model: str
    device_id: str
    ticket: Ticket


@dataclass(frozen=True)
class Unload:
    """Unload this idle model from this device, to make room."""

    model: str
    device_id: str


Decision = Bind | Load | Unload


@dataclass
class Sched:
    """All queues and devices. Owned by one loop; called by nobody else."""

    cards: Cards
    queues: RunQueues = field(default_factory=RunQueues)
    devices: dict[str, Device] = field(default_factory=dict)
    _load_failures: dict[tuple[str, str], int] = field(default_factory=dict)

    # Events in.

    def submit(self, ticket: Ticket) -> None:
        """A generation waits, newly or again."""
        self.queues.push(ticket)

    def remove(self, ticket_id: str) -> bool:
        """Take a waiting generation out (cancelled, expired); False where it waits nowhere."""
        if self.queues.remove(ticket_id):
            return True
        for device in self.devices.values():
            if device.runnext and device.runnext.id == ticket_id:
                device.runnext = None
                return True
        return False

    def device_up(
        self, device_id: str, node: str, capacity_bytes: int, resident: list[str], now: float
    ) -> Device:
        """A device joined or came back, with these models on it and nothing running."""
        known = {model: now for model in resident if model in self.cards}
        self.devices[device_id] = Device(device_id, node, capacity_bytes, resident=known)
        return self.devices[device_id]

    def adopt(self, ticket: Ticket, device_id: str, now: float) -> None:
        """A generation turned out to be running there already."""
        device = self.devices[device_id]
        device.running[ticket.id] = ticket
        device.resident.setdefault(ticket.model, now)

    def device_down(self, device_id: str) -> list[Ticket]:
        """A device is gone. Its runnext waits again; returns what it was running."""
        device = self.devices.pop(device_id)
        if device.runnext:
            self.queues.push(device.runnext)
        return list(device.running.values())

    def quarantine(self, device_id: str, reason: str) -> None:
        """Give it no new work while `reason` is not empty."""
        self.devices[device_id].quarantined = reason

    def loaded(self, device_id: str, model: str, now: float) -> None:
        """A load is done."""
        device = self.devices[device_id]
        device.loading = None
        device.resident[model] = now
        self._load_failures.pop((device_id, model), None)

    def load_failed(self, device_id: str, model: str, now: float) -> Ticket | None:
        """A load failed: back off, queue its ticket again; or give it up after too many."""
        device = self.devices[device_id]
        device.loading = None
        ticket, device.runnext = device.runnext, None
        failures = self._load_failures.get((device_id, model), 0) + 1
        self._load_failures[device_id, model] = failures
        device.load_not_before[model] = now + LOAD_BACKOFF_SECONDS * 2 ** (failures - 1)
        if ticket and failures < MAX_LOAD_FAILURES:
            self.queues.push(ticket)
            return None
        return ticket

    def unloaded(self, device_id: str, model: str, *, still_resident: bool, now: float) -> None:
        """An unload ended, or a report tells otherwise; where it failed the weights still count."""
        device = self.devices[device_id]
        if device.unloading == model:
            device.unloading = None
        if still_resident:
            device.resident[model] = now
        else:
            device.resident.pop(model, None)

    def drop(self, ticket_id: str) -> Ticket | None:
        """A generation needs its device no more (decoded, failed, cancelled, lost)."""
        for device in self.devices.values():
            if ticket_id in device.running:
                return device.running.pop(ticket_id)
        return None

    # Decisions out.

    def schedule(self, now: float) -> list[Decision]:
        """Everything that can start now. Decisions are already accounted for when they return."""
        decisions: list[Decision] = []
        for device in sorted(self.devices.values(), key=lambda d: (d.rows, d.id)):
            while decision := self.find_runnable(device, now):
                decisions.append(decision)
        decisions.extend(self._find_loads(now))
        return decisions

    def find_runnable(self, device: Device, now: float) -> Bind | None:
        """The next generation for this device, by source, in order; None where there is none."""
        if not device.usable:
            return None
        # 1. The one that its load was for.
        ticket = device.runnext
        if ticket and ticket.model in device.resident and not device.running:
            device.runnext = None
            return self._bind(device, ticket, now)
        if ticket and ticket.model in device.resident:
            return None  # the batch drains, then runnext leads
        # 2. The first among all queues whose model is resident here: it starts a batch, or joins
        #    the running one. If it is of another shape, the batch drains for it.
        best = self.queues.best(set(device.resident))
        waits_longer = device.yield_to is None or (best and best.order < device.yield_to)
        if best and waits_longer and device.can_run(best, self.cards):
            return self._bind(device, self.queues.pop(best.key), now)
        return None

    def _bind(self, device: Device, ticket: Ticket, now: float) -> Bind:
        device.bind(ticket, self.cards, now)
        return Bind(ticket, device.id)

    def _find_loads(self, now: float) -> list[Decision]:
        """Loads for what still waits after all binding; the most urgent first.

        A model without a home (a device where it is resident and the ticket fits beside it) may
        displace others. One that has a home gets a further replica only where memory is free and
        nothing runs; at home, idle neighbours make room for activations.
        """
        for device in self.devices.values():
            device.yield_to = None
        usable = [d for d in self.devices.values() if d.usable]
        loading = {d.loading for d in usable}
        heads: dict[str, Ticket] = {}
        for head in sorted(filter(None, (q.head() for q in self.queues)), key=lambda t: t.order):
            if head.model not in loading:
                heads.setdefault(head.model, head)
        decisions: list[Decision] = []
        for head in heads.values():
            homes = [d.id for d in usable if placement.is_home(head, d, self.cards)]
            candidates = [d for d in usable if not d.running] if homes else usable
            place = placement.pick(head, candidates, self.cards, now)
            if place and not (homes and place.evict and place.device.id not in homes):
                decisions.append(self._make_room_or_load(place, head))
            elif not homes:
                drained = placement.drain(head, usable, self.cards, now)
                if drained and drained.yield_to is None:
                    drained.yield_to = head.order
        return decisions

    def _make_room_or_load(self, place: placement.Placement, head: Ticket) -> Decision:
        device = place.device
        if place.evict:  # one at a time; the load follows when the room is there
            device.unloading = place.evict[0]
            return Unload(place.evict[0], device.id)
        device.runnext = self.queues.pop(head.key)
        device.loading = head.model
        return Load(head.model, device.id, head)

    # For people and for tests.

    def check_integrity(self) -> None:
        """Raise AssertionError where an invariant is broken. Cheap enough to call whenever idle."""
        bound: set[str] = set()
        for device in self.devices.values():
            tickets = [*device.running.values(), *([device.runnext] if device.runnext else [])]
            assert device.free_bytes(self.cards) >= 0, f"{device.id}: memory over budget"
            assert len({t.key for t in device.running.values()}) <= 1, f"{device.id}: mixed batch"
            for ticket in tickets:
                assert ticket.id not in bound, f"{ticket.id} is bound twice"
                assert ticket.id not in self.queues, f"{ticket.id} is bound and queued"
                bound.add(ticket.id)
            for ticket in device.running.values():
                assert ticket.model in device.resident, f"{ticket.id} runs without its model"
