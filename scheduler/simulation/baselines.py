"""What ours is compared with: where a request goes, as others decide it. Pure."""

from __future__ import annotations

import zlib
from bisect import bisect
from collections.abc import Callable, Sequence

from scheduler.model import Model
from scheduler.runqueue import Late, Ticket
from scheduler.sched import Sched
from scheduler.simulation.clockwork import Clockwork
from scheduler.simulation.early import Early, Group, Lane
from scheduler.simulation.world import Policy

OURS = "atelier"
RING_POINTS = 64  # of a device, for consistent hashing
COPY_WAIT = 2.0  # loads that a request would wait at the best copy: then ModelMesh makes another


class RoundRobin(Early):
    """Each device in turn."""

    turn = -1

    def choose(self, ticket: Ticket, groups: Sequence[Group], now: float) -> Group:
        self.turn += 1
        return groups[self.turn % len(groups)]


class LeastLoaded(Early):
    """The device with the fewest requests."""

    def cost(self, lane: Lane, ticket: Ticket, now: float) -> float:
        return len(lane.bound)


class LeastWork(Early):
    """The device with the least work bound to it, in seconds."""

    def cost(self, lane: Lane, ticket: Ticket, now: float) -> float:
        return self.busy(lane, now)


class PowerOfTwo(Early):
    """The less loaded of two devices, drawn by the request's id and the seed."""

    seed = 0

    def choose(self, ticket: Ticket, groups: Sequence[Group], now: float) -> Group:
        drawn = [groups[_hash(f"{self.seed}/{ticket.id}/{i}") % len(groups)] for i in range(2)]
        return min(drawn, key=lambda g: max(len(lane.bound) for lane in g))


class ConsistentHash(Early):
    """The device that the model's name hashes to; few models move when a device fails."""

    def choose(self, ticket: Ticket, groups: Sequence[Group], now: float) -> Group:
        ring = sorted(
            (_hash(f"{group[0].device.id}#{point}"), i)
            for i, group in enumerate(groups)
            for point in range(RING_POINTS)
        ) if self._ring_of is not groups else self._ring  # fmt: skip
        self._ring_of, self._ring = groups, ring
        return groups[ring[bisect(ring, (_hash(ticket.model), -1)) % len(ring)][1]]

    _ring_of: Sequence[Group] = ()
    _ring: list[tuple[int, int]] = []  # noqa: RUF012 (replaced, never changed)


class EarliestFinish(Early):
    """The device that would finish it first, loads included (ECT)."""

    def cost(self, lane: Lane, ticket: Ticket, now: float) -> float:
        device = lane.device
        loads = max(0.0, device.load_ends - now) if device.loading else 0.0
        loads += sum(
            self.load_seconds(m, device)
            for m in lane.wanted
            if m not in device.resident and m != device.loading
        )
        if not lane.has(ticket.model):
            loads += self.load_seconds(ticket.model, device)
        return loads + self.busy(lane, now) + ticket.work / device.speed


class ModelMesh(Early):
    """The least busy device that has the model; another copy where it was used longest ago."""

    def choose(self, ticket: Ticket, groups: Sequence[Group], now: float) -> Group:
        def busy(group: Group) -> float:
            return max(self.busy(lane, now) for lane in group)

        model = self.models[ticket.model]
        copies = [g for g in groups if all(lane.has(model.name) for lane in g)]
        if copies:
            best = min(copies, key=busy)
            coming = any(model.name not in lane.device.resident for g in copies for lane in g)
            if coming or busy(best) <= COPY_WAIT * model.load or len(copies) == len(groups):
                return best
        absent = [g for g in groups if g not in copies]
        return min(absent, key=lambda g: (max(self._age(lane, model) for lane in g), busy(g)))

    def _age(self, lane: Lane, model: Model) -> float:
        """When the last of what it would evict was used; -1 where there is room."""
        evict = self.victims(lane.device, model.name)
        if evict is None:
            return float("inf")
        return max((lane.device.resident[m] for m in evict), default=-1.0)


def _hash(text: str) -> int:
    return zlib.crc32(text.encode()) * 2_654_435_761 % 2**32  # crc alone keeps neighbours together


BASELINES: dict[str, Callable[[dict[str, Model]], Policy]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "least-work": LeastWork,
    "p2c": PowerOfTwo,
    "consistent-hash": ConsistentHash,
    "modelmesh": ModelMesh,
    "ect": EarliestFinish,
    "clockwork": Clockwork,
}
NAMES = (OURS, *BASELINES)


def policy(name: str, models: dict[str, Model], late: Late, seed: int = 0) -> Policy:
    """A policy by its name. Raises KeyError. `late` is for ours; `seed` for those that draw."""
    if name == OURS:
        return Sched(models, late=late)
    made = BASELINES[name](models)
    if isinstance(made, PowerOfTwo):
        made.seed = seed
    return made
