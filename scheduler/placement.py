"""Where a model could be loaded, what that takes and what it displaces. Pure.

A load displaces the residents that are worth least for each byte. All worths are in one unit, that
of demand.py: class-weighted objectives met a second.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from scheduler.books import Books
from scheduler.device import Device, Models, shape_of
from scheduler.host import HostTier
from scheduler.model import Model
from scheduler.runqueue import Ticket

HORIZON = 40.0  # seconds over which a load must pay
PHI = 0.3  # weight of a device's pressure in the choice of where to load
PROTECT_VALUE, PROTECT_COUNT = 0.03, 0.01  # queued work protects its replica
MIN_RESIDENCE = 2.0  # loads: a replica with queued work is safe for so long
SMALL_FLEET, MOST_IDLE, SAMPLE = 32, 16, 24  # devices looked at for a place


def seconds_of_load(model: Model, device: Device, models: Models, tier: HostTier | None) -> float:
    """Seconds to load a model, beside what the device has, from where the rest is nearest."""
    if not model.shared:
        near = tier is not None and model.name in tier.held
        return model.load_host if near and model.load_host is not None else model.load
    there = {part for other in device.resident for part in models[other].shared}
    if tier is not None:
        return tier.seconds_of_load(model, there)
    missing = sum(size for part, size in model.shared.items() if part not in there)
    return model.load * (model.own + missing) / model.weights


class Place(NamedTuple):
    """Where to load, and what for it must go: worth a second, and models."""

    cost: float
    device: Device
    victims: list[str]


class Placement:
    """Looks, and changes nothing."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def load_seconds(self, model: str, device: Device | None = None) -> float:
        """Seconds of a load there; without a device, where it is the shortest."""
        books = self._books
        costs = books.models[model]
        if device is None:
            near = any(model in tier.held for tier in books.hosts.values())
            seconds = costs.load_host if near and costs.load_host is not None else costs.load
            return seconds * costs.own / costs.weights if costs.shared else seconds
        return seconds_of_load(costs, device, books.models, books.hosts.get(device.node))

    def pick(self, model: str, now: float, ticket: Ticket | None = None) -> Place | None:
        """Where loading displaces least, on a device that is not pressed; for `ticket`, if any."""
        best: tuple[float, int, Place] | None = None
        books = self._books
        demand, hosts = books.demand, bool(books.hosts) or books.sharing
        worth = demand.worth(model, books.copies(model) + 1, now)
        worth += 0.1 * books.queues.weight[model]
        for device in self._candidates():
            if device.loading or device.unloading or not device.usable:
                continue
            if model in device.resident or device.load_not_before.get(model, 0.0) > now:
                continue
            if ticket is not None and not self.holds(device, ticket):
                continue
            found = self.victims(model, device, now)
            if found is None:
                continue
            cost, victims = found
            pressure = sum(
                demand.work_rate(m, now) / len(books.replicas[m]) for m in device.resident
            )
            busy = 0.2 if device.running else 0.0
            score = cost + PHI * worth * (pressure / device.speed + busy)
            if hosts:  # a longer load is worth so much less until it ends
                score += worth * self.load_seconds(model, device) / HORIZON
            if best is None or (score, device.index) < best[:2]:
                best = score, device.index, Place(cost, device, victims)
        return best[2] if best else None

    def victims(self, model: str, device: Device, now: float) -> tuple[float, list[str]] | None:
        """What must go to make room, least worth a byte first; None if that is not enough."""
        books, models = self._books, self._books.models
        most = max(
            [models[model].activation, device.activations(models)]
            + [models[m].activation for m in device.resident]
            + ([device.gang.rows * shape_of(device.gang, models).activation] if device.gang else [])
        )
        room = device.capacity - most
        kept = [*device.resident, model]
        if books.union(kept) <= room:
            return 0.0, []
        stays = device.in_use | device.pinned
        values = []
        for m in device.resident:
            if m in stays or device.unload_not_before.get(m, 0.0) > now:
                continue
            young = now - device.loaded_at[m] < MIN_RESIDENCE * models[m].load
            if books.queues.count[m] and young:
                continue
            values.append((self.value(m, now), device.resident[m], m))
        cost, victims = 0.0, []
        for value, _, m in sorted(values):
            victims.append(m)
            kept.remove(m)
            cost += value * models[m].displaced
            if books.union(kept) <= room:
                return cost, victims
        return None

    def neighbour(self, device: Device, kept: str, now: float) -> str:
        """The idle resident, other than `kept`, that is worth least; empty if there is none."""
        stays = {kept, *device.in_use, *device.pinned}
        others = [
            (self.value(m, now), m)
            for m in device.resident
            if m not in stays and device.unload_not_before.get(m, 0.0) <= now
        ]
        return min(others)[1] if others else ""

    def value(self, model: str, now: float) -> float:
        """What one replica of a resident is worth a byte."""
        books = self._books
        replicas = max(1, len(books.replicas[model]))
        worth = books.demand.worth(model, replicas + len(books.loading[model]), now)
        queued = PROTECT_VALUE * books.queues.weight[model]
        queued += PROTECT_COUNT * min(8, books.queues.count[model])
        return (worth + queued / replicas) / books.models[model].displaced

    def holds(self, device: Device, ticket: Ticket) -> bool:
        """Whether the ticket would fit there with its model alone."""
        model = self._books.models[ticket.model]
        needed = model.weights + ticket.rows * model.shapes[ticket.shape].activation
        return needed <= device.capacity

    def blocked(self, device: Device, ticket: Ticket) -> bool:
        """Whether the model that runs there leaves no room for the ticket's, with all else gone."""
        models = self._books.models
        running = {t.model for t in device.running.values()}
        held = self._books.union([*({ticket.model} | running)])
        needed = ticket.rows * models[ticket.model].shapes[ticket.shape].activation
        return held + device.activations(models) + needed > device.capacity

    def _candidates(self) -> list[Device]:
        """All devices of a small fleet; of a large one the idle first, then a sample."""
        books = self._books
        devices = list(books.devices.values())
        if len(devices) <= SMALL_FLEET:
            return devices
        idle = list(islice(books.idle.values(), MOST_IDLE))
        return list(dict.fromkeys([*idle, *books.sample(devices, SAMPLE)]))
