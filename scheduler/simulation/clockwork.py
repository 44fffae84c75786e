"""A policy in the manner of Clockwork (Gujarati et al., OSDI 2020), to compare with. Pure.

One queue of deadlines for all: an idle device takes the request that is due first, together with
those of its model and shape that can wait for each other, and finishes it undisturbed. What can no
longer be in time is dropped. A device with nothing else to do loads for the request due first of a
model whose queue its copies do not get through soon, and evicts by age. (Clockwork itself plans
batches by size and window; this does not.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice

from scheduler.decisions import Decision, Reject
from scheduler.device import Device
from scheduler.model import Model
from scheduler.runqueue import Key, Ticket
from scheduler.simulation.lru import Fleet

COPY_WAIT = 0.7  # loads that a queue outlasts its model's copies by: then another copy pays

Group = tuple[Device, ...]
Due = tuple[float, str, Ticket]


class Clockwork(Fleet):
    """Earliest deadline first, request by request."""

    def __init__(self, models: dict[str, Model]) -> None:
        super().__init__(models)
        self._heaps: dict[str, dict[Key, list[Due]]] = defaultdict(dict)
        self._work: dict[str, float] = defaultdict(float)  # seconds queued, by model
        self._gates: dict[str, tuple[Ticket, Group]] = {}  # device -> the gang that it is kept for
        self._idle: dict[str, Device] = {}

    # Events in.

    def submit(self, ticket: Ticket, now: float) -> list[Decision]:
        self.prepare(ticket)
        return self.again(ticket, now)

    def again(self, ticket: Ticket, now: float) -> list[Decision]:
        self._push(ticket)
        if self._idle:
            homes = [d for d in self._idle.values() if ticket.model in d.resident]
            self.ask(max(homes or self._idle.values(), key=lambda d: (d.speed, -d.index)))
        return self.take()

    def boundary(self, device_id: str, now: float) -> list[Decision]:
        device = self.devices[device_id]
        if device.running or device.loading:
            return self.take()
        self._idle.pop(device_id, None)
        if device_id not in self._gates:
            best = self._best(device, now)
            if best is None:
                self._idle[device_id] = device
                return self.take()
            if self.models[best.model].gang == 1:
                self._run(device, best, now)
                return self.take()
            self._reserve(best)
        self._at_gate(device, now)
        return self.take()

    def finished(self, ticket: Ticket) -> None:
        self.devices[ticket.device].running.pop(ticket.id, None)
        self._release(ticket)

    def device_up(
        self, device_id: str, node: str, capacity: float, now: float,
        *, speed: float = 1.0, resident: Iterable[str] = (),
    ) -> list[Decision]:  # fmt: skip
        self.join(device_id, node, capacity, speed, resident, now)
        return self.take()

    def device_down(self, device_id: str) -> list[Ticket]:
        device = self.leave(device_id)
        self._idle.pop(device_id, None)
        lost = list(device.running.values())
        if device_id in self._gates:
            ticket, group = self._gates[device_id]
            lost = [ticket]
            for member in group:
                member.running.pop(ticket.id, None)
            self._release(ticket)
        return lost

    def tick(self, now: float) -> list[Decision]:
        """Drop the late of models that nothing asks for; an idle device each for what waits."""
        waiting = sum(any(True for _ in self._heads(model, now)) for model in list(self._heaps))
        for device in islice(self._idle.values(), waiting):
            self.ask(device)
        return self.take()

    # Decisions.

    def _best(self, device: Device, now: float) -> Ticket | None:
        """What is due first of what it has the model of; else of what it should load for."""
        best: Ticket | None = None
        first = (True, math.inf, "")
        for model in list(self._heaps):
            here = model in device.resident
            if self.models[model].gang > 1:
                if not self._group(model, device):
                    continue
            elif not here and self._load_is_no_use(model, device):
                continue
            for head in self._heads(model, now):
                if now + head.work / device.speed > head.due:
                    continue
                order = (not here and self.models[model].gang == 1, head.due, head.id)
                if order < first:
                    best, first = head, order
        return best

    def _load_is_no_use(self, model: str, device: Device) -> bool:
        """Those who have it, or load it, are soon through what waits; or it does not fit."""
        copies = self.copies[model]
        if copies and self._work[model] / copies <= COPY_WAIT * self.load_seconds(model):
            return True
        costs = self.models[model]
        return costs.weights + costs.activation > device.capacity

    def _run(self, device: Device, ticket: Ticket, now: float) -> None:
        if ticket.model not in device.resident:
            self.load(device, ticket.model, now)
            return
        heap = self._heaps[ticket.model][ticket.queue]
        self._pop(heap)
        self.bind(device, ticket, now)
        shape, rows = self.shape(ticket), ticket.rows
        cap = self.cap(device, shape)
        members: list[Ticket] = [ticket]
        passed: list[Ticket] = []
        while heap and len(passed) < 4:
            other = self._pop(heap)
            rows += other.rows
            end = now + (max(t.steps_left for t in (*members, other)) * shape.step(rows)
                         + rows * shape.decode) / device.speed  # fmt: skip
            if rows <= cap and all(end <= t.due for t in (*members, other)):
                members.append(other)
                self.bind(device, other, now)
            else:
                rows -= other.rows
                passed.append(other)
        for other in passed:
            self._push(other)

    def _push(self, ticket: Ticket) -> None:
        self._work[ticket.model] += ticket.work
        heap = self._heaps[ticket.model].setdefault(ticket.queue, [])
        heappush(heap, (ticket.due, ticket.id, ticket))

    def _pop(self, heap: list[Due]) -> Ticket:
        ticket = heappop(heap)[2]
        self._work[ticket.model] -= ticket.work
        return ticket

    def _heads(self, model: str, now: float) -> Iterator[Ticket]:
        """The first of each shape that is still in time; the late are dropped."""
        heaps = self._heaps[model]
        for key in list(heaps):
            heap = heaps[key]
            while heap and now + heap[0][2].work > heap[0][0]:
                self.out.append(Reject(self._pop(heap)))
            if heap:
                yield heap[0][2]
            else:
                del heaps[key]
        if not heaps:
            self._heaps.pop(model, None)

    # Gangs: a group is kept for a ticket as a whole, so two of them never hold each other's half.

    def _group(self, model: str, device: Device) -> Group:
        """The aligned group of the device that a gang could have; empty if there is none."""
        size = self.models[model].gang
        node = [d for d in self.devices.values() if d.node == device.node]
        first = node.index(device) // size * size
        group = tuple(node[first : first + size])
        return group if len(group) == size and not any(d.id in self._gates for d in group) else ()

    def _reserve(self, ticket: Ticket) -> None:
        def idle_and_loaded(group: Group) -> tuple[int, int]:
            return sum(ticket.model in d.resident for d in group), -sum(
                bool(d.running) for d in group
            )

        groups = {g for d in self.devices.values() if (g := self._group(ticket.model, d))}
        group = max(sorted(groups, key=lambda g: g[0].index), key=idle_and_loaded)
        self._pop(self._heaps[ticket.model][ticket.queue])
        for device in group:
            self._gates[device.id] = ticket, group
            self._idle.pop(device.id, None)
            self.ask(device)

    def _at_gate(self, device: Device, now: float) -> None:
        kept = self._gates.get(device.id)
        if kept is None:
            self.ask(device)
            return
        ticket, group = kept
        if any(ticket.id in d.running for d in group):
            return
        if now + ticket.work / min(d.speed for d in group) > ticket.due + math.ulp(now):
            self._release(ticket)
            self.out.append(Reject(ticket))
        elif ticket.model not in device.resident:
            self.load(device, ticket.model, now)
        elif all(ticket.model in d.resident and not d.running and not d.loading for d in group):
            if device is group[0]:
                self.bind(device, ticket, now)
                for member in group[1:]:
                    member.resident[ticket.model] = now
            else:
                self.ask(group[0])

    def _release(self, ticket: Ticket) -> None:
        for name in [d for d, (t, _) in self._gates.items() if t is ticket]:
            del self._gates[name]
            if name in self.devices and name != ticket.device:
                self.ask(self.devices[name])
