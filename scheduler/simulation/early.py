"""Binding at submit: a queue for each device, as most dispatchers have it. Pure.

Each queue is first in, first out; a device evicts what was used longest ago and waits while it
loads, as the usual implementations do; classes and deadlines are unknown. A gang's request goes
into the queue of each device of its group and runs once all have reached it (all queues have gangs
in one order, so none waits for ever).

Batches: a running batch takes whoever asks for the same model and shape next in its device's queue,
as long as there is memory, the habit of language models' servers. Without it these policies fall
behind even where nothing has to be loaded (0.08 instead of 0.75 with one hot model at load 1.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from scheduler.decisions import Decision
from scheduler.device import Device
from scheduler.model import Model
from scheduler.runqueue import Ticket
from scheduler.simulation.lru import Fleet

LOOKED_AT = 32  # tickets of a queue that may join a batch


@dataclass(eq=False)
class Lane:
    """A device and its queue."""

    device: Device
    queue: deque[Ticket] = field(default_factory=deque)  # without what runs, but for gangs
    bound: dict[str, Ticket] = field(default_factory=dict)  # queued or running
    waiting: float = 0.0  # seconds of work queued, at speed 1
    looked_up: float = 0.0  # when its batch last changed
    wanted: dict[str, int] = field(default_factory=dict)  # model -> tickets bound to it
    ready: str = ""  # the gang's ticket that it waits for the others with

    def has(self, model: str) -> bool:
        """Whether the model is there, or will be before the end of the queue."""
        return model in self.device.resident or model in self.wanted


Group = tuple[Lane, ...]


class Early(Fleet):
    """Binds at submit. What `cost` is lowest for gets the request."""

    def __init__(self, models: dict[str, Model]) -> None:
        super().__init__(models)
        self.lanes: dict[str, Lane] = {}
        self._groups: dict[int, list[Group]] = {}
        self._homes: dict[str, Group] = {}  # ticket -> where it is bound
        self._homeless: list[Ticket] = []  # no device was up

    def choose(self, ticket: Ticket, groups: Sequence[Group], now: float) -> Group:
        """Where it goes; a group is one device, but for gangs."""
        return min(groups, key=lambda g: max(self.cost(lane, ticket, now) for lane in g))

    def cost(self, lane: Lane, ticket: Ticket, now: float) -> float:
        raise NotImplementedError

    # Events in.

    def submit(self, ticket: Ticket, now: float) -> list[Decision]:
        self.prepare(ticket)
        return self.again(ticket, now)

    def again(self, ticket: Ticket, now: float) -> list[Decision]:
        groups = self._of(self.models[ticket.model].gang)
        if not groups:
            self._homeless.append(ticket)
            return self.take()
        home = self.choose(ticket, groups, now)
        self._homes[ticket.id] = home
        for lane in home:
            lane.queue.append(ticket)
            lane.bound[ticket.id] = ticket
            lane.waiting += ticket.work
            lane.wanted[ticket.model] = lane.wanted.get(ticket.model, 0) + 1
            if not lane.device.loading and not lane.ready:
                self.ask(lane.device)
        return self.take()

    def boundary(self, device_id: str, now: float) -> list[Decision]:
        lane = self.lanes[device_id]
        device, queue = lane.device, lane.queue
        if device.loading or (lane.ready and not (queue and queue[0].id == lane.ready)):
            return self.take()
        if not device.running and queue:
            head = queue[0]
            if head.model not in device.resident:
                self.load(device, head.model, now)
            elif self.models[head.model].gang > 1:
                self._at_gate(lane, head, now)
            else:
                self._dequeue(lane, head)
                self.bind(device, head, now)
        if device.running and not lane.ready:
            for ticket in self.fill(device, islice(queue, LOOKED_AT), now):
                self._dequeue(lane, ticket)
            lane.looked_up = now
        return self.take()

    def finished(self, ticket: Ticket) -> None:
        for lane in self._leave(ticket):
            if lane.device.id != ticket.device:
                self.ask(lane.device)

    def device_up(
        self, device_id: str, node: str, capacity: float, now: float,
        *, speed: float = 1.0, resident: Iterable[str] = (),
    ) -> list[Decision]:  # fmt: skip
        device = self.join(device_id, node, capacity, speed, resident, now)
        self.lanes[device_id] = Lane(device)
        self._groups.clear()
        homeless, self._homeless = self._homeless, []
        joined = self.take()
        for ticket in homeless:
            joined += self.again(ticket, now)
        return joined

    def device_down(self, device_id: str) -> list[Ticket]:
        lane = self.lanes.pop(device_id)
        self.leave(device_id)
        self._groups.clear()
        lost = list(lane.bound.values())
        for ticket in lost:
            for other in self._leave(ticket):
                if other is not lane:
                    self.ask(other.device)
            ticket.device = ""
        return lost

    def tick(self, now: float) -> list[Decision]:
        return self.take()

    # Gangs and accounts.

    def _at_gate(self, lane: Lane, ticket: Ticket, now: float) -> None:
        lane.ready = ticket.id
        group = self._homes[ticket.id]
        if all(other.ready == ticket.id for other in group) and lane is group[0]:
            self.bind(lane.device, ticket, now)
            for other in group[1:]:
                other.device.resident[ticket.model] = now  # when it was last used
        elif lane is not group[0] and group[0].ready == ticket.id:
            self.ask(group[0].device)

    def _leave(self, ticket: Ticket) -> Group:
        home = self._homes.pop(ticket.id)
        for lane in home:
            lane.bound.pop(ticket.id)
            lane.wanted[ticket.model] -= 1
            if not lane.wanted[ticket.model]:
                del lane.wanted[ticket.model]
            if ticket in lane.queue:
                self._dequeue(lane, ticket)
            lane.device.running.pop(ticket.id, None)
            if lane.ready == ticket.id:
                lane.ready = ""
        return home

    def _dequeue(self, lane: Lane, ticket: Ticket) -> None:
        lane.queue.remove(ticket)
        lane.waiting -= ticket.work

    def busy(self, lane: Lane, now: float) -> float:
        """Seconds until the device is through what is bound to it, without loads."""
        seconds = lane.waiting
        running = lane.device.running.values()
        if running:
            rows = sum(t.rows for t in running)
            shape = self.shape(next(iter(running)))
            steps = max(t.steps_left for t in running)
            left = steps * shape.step(rows) + rows * shape.decode
            seconds += max(0.0, left - (now - lane.looked_up) * lane.device.speed)
        return seconds / lane.device.speed

    def _of(self, size: int) -> list[Group]:
        """The aligned groups of so many devices of one node."""
        found = self._groups.get(size)
        if found is None:
            nodes: dict[str, list[Lane]] = {}
            for lane in self.lanes.values():
                nodes.setdefault(lane.device.node, []).append(lane)
            found = self._groups[size] = [
                tuple(lanes[i : i + size])
                for lanes in nodes.values()
                for i in range(0, len(lanes) - size + 1, size)
            ]
        return found
