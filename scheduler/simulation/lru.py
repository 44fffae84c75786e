"""A plain fleet: devices load on demand, evict by age, and compute nothing while they load. Pure.

What the policies that ours is compared with have in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from scheduler.decisions import Bind, Boundary, Decision, Hold, Load
from scheduler.device import Device
from scheduler.host import HostTier
from scheduler.model import Model, Shape, union
from scheduler.placement import seconds_of_load
from scheduler.runqueue import Ticket
from scheduler.sched import RESERVE


class Fleet:
    """Devices that load on demand, evict by age, and compute nothing while they load."""

    def __init__(self, models: dict[str, Model]) -> None:
        self.models = models
        self.devices: dict[str, Device] = {}
        self.out: list[Decision] = []
        self.hosts: dict[str, HostTier] = {}
        self.used: dict[str, float] = {}  # model -> when last
        self.copies: dict[str, int] = defaultdict(int)  # of models: there, or loading
        self._joined = 0

    def host_up(self, node: str, capacity: float) -> None:
        """The page cache of a node: what was used last stays."""
        self.hosts[node] = HostTier(node, capacity, self.models, self._last_used)

    def warmed(self, node: str, model: str) -> None:
        raise AssertionError("nothing is read ahead here")

    def _last_used(self, model: str, now: float) -> float:
        return self.used.get(model, 0.0)

    def load_seconds(self, model: str, device: Device | None = None) -> float:
        """Seconds of a load there; without a device, from disk."""
        costs = self.models[model]
        if device is None:
            return costs.load
        return seconds_of_load(costs, device, self.models, self.hosts.get(device.node))

    def _to_host(self, device: Device, model: str, now: float) -> None:
        tier = self.hosts.get(device.node)
        if tier is not None and self.models[model].gains_from_host and tier.admit(model, now):
            self.out.append(Hold(tier.node, tuple(tier.held)))

    def join(
        self, device_id: str, node: str, capacity: float, speed: float, resident: Iterable[str],
        now: float,
    ) -> Device:  # fmt: skip
        self._joined += 1
        device = Device(device_id, node, capacity * (1 - RESERVE), speed, index=self._joined)
        self.devices[device_id] = device
        for model in resident:
            device.resident[model] = now
            self.copies[model] += 1
        self.ask(device)
        return device

    def leave(self, device_id: str) -> Device:
        device = self.devices.pop(device_id)
        for model in {*device.resident, *([device.loading] if device.loading else ())}:
            self.copies[model] -= 1
        return device

    def loaded(self, device_id: str, model: str, now: float) -> list[Decision]:
        device = self.devices[device_id]
        device.loading = ""
        device.resident[model] = self.used[model] = now
        self._to_host(device, model, now)
        self.ask(device)
        return self.take()

    def unloaded(self, device_id: str, model: str, now: float) -> list[Decision]:
        device = self.devices[device_id]
        del device.resident[model]
        self.copies[model] -= 1
        self._to_host(device, model, now)
        return self.take()

    def load(self, device: Device, model: str, now: float) -> bool:
        """Load it, in the place of what was used longest ago; False if it never fits."""
        evict = self.victims(device, model)
        if evict is None:
            return False
        for victim in evict:
            del device.resident[victim]
            self.copies[victim] -= 1
            self._to_host(device, victim, now)
        self.copies[model] += 1
        device.loading, device.load_ends = model, now + self.load_seconds(model, device)
        self.out.append(Load(model, device.id, tuple(evict)))
        return True

    def victims(self, device: Device, model: str) -> list[str] | None:
        """What must go, so that any resident can run alone; None if that is not enough."""
        evict: list[str] = []
        oldest = sorted(device.resident, key=lambda m: (device.resident[m], m))
        kept = [model, *device.resident]
        while True:
            held = union(self.models[m] for m in kept)
            if held + max(self.models[m].activation for m in kept) <= device.capacity:
                return evict
            if not oldest:
                return None
            evict.append(oldest.pop(0))
            kept.remove(evict[-1])

    def fill(self, device: Device, waiting: Iterable[Ticket], now: float) -> list[Ticket]:
        """Bind who shares the running batch's model and shape and fits; returns them."""
        running = device.running.values()
        one = next(iter(running))
        shape = self.shape(one)
        rows, cap = sum(t.rows for t in running), self.cap(device, shape)
        joined = []
        for ticket in waiting:
            if rows >= cap:
                break
            if ticket.queue == one.queue and rows + ticket.rows <= cap:
                joined.append(ticket)
                rows += ticket.rows
        for ticket in joined:
            self.bind(device, ticket, now)
        return joined

    def bind(self, device: Device, ticket: Ticket, now: float) -> None:
        ticket.device = device.id
        device.running[ticket.id] = ticket
        device.resident[ticket.model] = self.used[ticket.model] = now
        self.out.append(Bind(ticket, device.id))

    def cap(self, device: Device, shape: Shape) -> int:
        if shape.activation <= 0:
            return shape.batch_cap
        room = device.capacity - device.weights(self.models)
        return min(shape.batch_cap, int(room / shape.activation + 1e-9))

    def shape(self, ticket: Ticket) -> Shape:
        return self.models[ticket.model].shapes[ticket.shape]

    def prepare(self, ticket: Ticket) -> None:
        ticket.steps_left = ticket.steps_left or ticket.steps
        ticket.work = self.shape(ticket).work(ticket.steps, ticket.rows)
        ticket.due = ticket.submitted + ticket.slo

    def ask(self, device: Device) -> None:
        self.out.append(Boundary(device.id))

    def take(self) -> list[Decision]:
        taken, self.out = self.out, []
        return taken
