"""What is where, and the moves that keep it in step: devices, queues, replicas, hosts. Pure.

Every part of the core reads these books; they change only by the moves below and those of
residency.py, so that what is bound, resident and queued is never counted in two ways.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from scheduler.batching import left
from scheduler.decisions import Bind, Boundary, Decision, Preempt, Reject
from scheduler.demand import Demand
from scheduler.device import Device
from scheduler.fairness import Fairness
from scheduler.host import HostTier
from scheduler.model import Model, Shape, union
from scheduler.runqueue import Late, RunQueues, Ticket

PRESSURE = 5.0  # seconds of queued work a replica: from here on batches pay


class Books:
    """The core's state. `out` has the decisions since they were last taken."""

    def __init__(self, models: dict[str, Model], late: Late, *, preemption: bool) -> None:
        self.models = models
        self.preemption = preemption
        self.sharing = any(model.shared for model in models.values())
        self.devices: dict[str, Device] = {}
        self.idle: dict[str, Device] = {}
        self.bound: dict[str, Ticket] = {}  # what is on a device, by id
        self.replicas: dict[str, list[Device]] = defaultdict(list)  # by model, on usable devices
        self.loading: dict[str, list[Device]] = defaultdict(list)  # on devices not drained
        self.hosts: dict[str, HostTier] = {}  # by node
        self.demand = Demand()
        self.fairness = Fairness()
        self.queues = RunQueues(late, self.left, self.demand.settled, self._rejected)
        self.speed = 0.0  # of the whole fleet
        self.out: list[Decision] = []
        self._turn = 0

    # Questions.

    def shape(self, ticket: Ticket) -> Shape:
        return self.models[ticket.model].shapes[ticket.shape]

    def left(self, ticket: Ticket) -> float:
        """Seconds of work that are left of it, alone, at speed 1."""
        return left(ticket, self.models[ticket.model].shapes[ticket.shape])

    def weights(self, device: Device) -> float:
        """Bytes of weights that are there, coming or going."""
        if self.sharing:
            return device.weights(self.models)
        models = self.models
        held = sum(models[m].weights for m in device.resident)
        for m in (device.loading, device.unloading):
            if m and m not in device.resident:
                held += models[m].weights
        return held

    def union(self, names: list[str]) -> float:
        """Bytes of the weights of these models together."""
        if self.sharing:
            return union(self.models[name] for name in names)
        return sum(self.models[name].weights for name in names)

    def host_value(self, model: str, now: float) -> float:
        """Seconds of loading that its being in a host's memory saves a second, a byte."""
        costs = self.models[model]
        return self.demand.heat(model, now) * costs.gains_from_host / (costs.displaced * costs.gang)

    def cap(self, device: Device, shape: Shape) -> int:
        """Rows that fit: by the profile, and by memory beside all weights."""
        if shape.activation <= 0:
            return shape.batch_cap
        room = device.capacity - self.weights(device)
        return min(shape.batch_cap, int(room / shape.activation + 1e-9))

    def fits(self, device: Device, ticket: Ticket) -> bool:
        """Whether its activations fit beside the weights that are there."""
        return ticket.rows <= self.cap(device, self.shape(ticket))

    def pressed(self, model: str) -> bool:
        """Whether so much work waits for a model that larger batches pay."""
        return self.queues.work[model] / max(1, len(self.replicas[model])) >= PRESSURE

    def copies(self, model: str) -> int:
        """Replicas that are there or coming."""
        return len(self.replicas[model]) + len(self.loading[model])

    def sample(self, devices: list[Device], most: int) -> list[Device]:
        """At most so many of them, another part each time."""
        if len(devices) <= most:
            return devices
        self._turn += 1
        start, stride = self._turn % len(devices), max(1, len(devices) // most)
        return [devices[(start + i * stride) % len(devices)] for i in range(most)]

    # Moves.

    def join(self, device: Device) -> None:
        """A device is of the fleet."""
        self._turn += 1
        device.index = self._turn
        self.devices[device.id] = device
        self.speed += device.speed
        if device.usable:
            self.idle[device.id] = device

    def host(self, node: str, capacity: float, held: Iterable[str]) -> None:
        """A node's memory may hold so many bytes of weights, and has these."""
        tier = HostTier(node, capacity, self.models, self.host_value)
        tier.holds(m for m in held if m in self.models)
        self.hosts[node] = tier

    def bind(self, device: Device, ticket: Ticket, now: float, reason: str) -> None:
        """The device takes a ticket that waits nowhere any more."""
        device.running[ticket.id] = ticket
        device.resident[ticket.model] = now
        ticket.device = device.id
        self.bound[ticket.id] = ticket
        self.fairness.bound(ticket.id)
        self.out.append(Bind(ticket, device.id, reason))

    def preempt(self, device: Device, ticket: Ticket, reason: str) -> None:
        """The device gives a ticket back to its queue."""
        del device.running[ticket.id]
        self.bound.pop(ticket.id, None)
        self.queues.push(ticket)
        self.out.append(Preempt(ticket, device.id, reason))

    def ask(self, device: Device) -> None:
        """Have the device look up at its next step boundary."""
        self.out.append(Boundary(device.id))

    def gone(self, ticket: Ticket) -> None:
        """It ended, and counts nowhere any more."""
        self.demand.settled(ticket)
        self.fairness.gone(ticket.id, ticket.tenant)

    def take(self) -> list[Decision]:
        """The decisions since the last call."""
        taken, self.out = self.out, []
        return taken

    def _rejected(self, ticket: Ticket) -> None:
        self.gone(ticket)
        self.out.append(Reject(ticket))
