"""Which models are where: loads and unloads as they begin and end. Pure.

What is loaded, and when, is decided in wants.py (or by an operator, standing.py); where, and what
goes for it, in placement.py. Here the books are kept.
"""

from __future__ import annotations

from collections import defaultdict

from scheduler.books import Books
from scheduler.decisions import Hold, Load, Unload
from scheduler.device import Device
from scheduler.host import HostTier
from scheduler.placement import Placement
from scheduler.runqueue import Ticket

LOAD_BACKOFF, LONGEST_BACKOFF = 2.0, 60.0  # seconds after a failed load; doubles
MAX_LOAD_FAILURES = 3  # in a row, and on no device: then what waits for the model fails


class Residency:
    """Loads under way and their ends. Part of the core."""

    def __init__(self, books: Books, placement: Placement) -> None:
        self._books = books
        self._placement = placement
        self._failures: dict[str, int] = defaultdict(int)  # loads in a row, by model

    # Moves.

    def load(self, model: str, device: Device, victims: list[str], now: float, why: str) -> None:
        """Begin a load, after `victims` are unloaded."""
        books = self._books
        for victim in victims:
            self.unloaded(device, victim, now)
        device.loading = model
        device.load_began = now
        device.load_ends = now + self._placement.load_seconds(model, device)
        if not device.drained:
            books.loading[model].append(device)
        books.out.append(Load(model, device.id, tuple(victims), why))

    def unload(self, model: str, device: Device, now: float, why: str) -> None:
        """Begin to unload an idle resident."""
        self.unloaded(device, model, now)
        device.unloading = model
        self._books.out.append(Unload(model, device.id, why))

    def make_room(self, device: Device, model: str, now: float, why: str) -> bool:
        """Unload the idle neighbour of `model` that is worth least; False if there is none."""
        if device.loading or device.unloading:
            return False
        victim = self._placement.neighbour(device, model, now)
        if victim:
            self.unload(victim, device, now, why)
        return bool(victim)

    # Events.

    def loaded(self, device: Device, model: str, now: float) -> None:
        books = self._books
        if device.loading == model:
            self._load_over(device)
            self._failures.pop(model, None)
            device.load_not_before.pop(model, None)
            self._to_host(device, model, now)
        if model not in device.resident and device.usable:
            books.replicas[model].append(device)
        device.resident[model] = device.loaded_at[model] = now

    def load_failed(self, device: Device, model: str, now: float) -> list[Ticket]:
        """Back off; after too many failures in a row, all that waits for the model is given up."""
        books = self._books
        self._load_over(device)
        self._failures[model] += 1
        pause = LOAD_BACKOFF * 2 ** min(self._failures[model] - 1, 5)
        device.load_not_before[model] = now + min(pause, LONGEST_BACKOFF)
        if self._failures[model] < MAX_LOAD_FAILURES or books.replicas[model]:
            return []
        return [t for queue in books.queues.by_model[model].values() for t in queue]

    def unloaded(self, device: Device, model: str, now: float) -> None:
        if device.unloading == model:
            device.unloading = ""
        if model in device.resident:
            del device.resident[model]
            device.loaded_at.pop(model, None)
            if device.usable:
                self._books.replicas[model].remove(device)
            self._to_host(device, model, now)

    def unload_refused(self, device: Device, model: str, now: float) -> None:
        if device.unloading == model:
            device.unloading = ""
        device.unload_not_before[model] = now + LOAD_BACKOFF
        if model not in device.resident:
            self.loaded(device, model, now)

    def usable_changed(self, device: Device) -> None:
        """Whether what is on the device counts among the replicas."""
        for model in device.resident:
            if device.usable:
                self._books.replicas[model].append(device)
            else:
                self._books.replicas[model].remove(device)

    def drained_changed(self, device: Device) -> None:
        """Whether what the device loads counts among the replicas to come."""
        if device.loading:
            coming = self._books.loading[device.loading]
            if device.drained:
                coming.remove(device)
            else:
                coming.append(device)

    def lost(self, device: Device) -> None:
        """The device is gone, with all that was on it."""
        for places in (self._books.replicas, self._books.loading):
            for devices in places.values():
                if device in devices:
                    devices.remove(device)

    def _load_over(self, device: Device) -> None:
        if not device.drained:
            self._books.loading[device.loading].remove(device)
        device.loading = ""

    def settle(self, device: Device, now: float) -> None:
        """Something there is larger than it was said to be: make room until all fits again."""
        if device.free(self._books.models) >= 0:
            device.overdrawn = False
        else:
            self.make_room(device, "", now, "what is there was measured larger than declared")

    # The hosts.

    def warm(self, now: float) -> None:
        """Each host whose disk is free reads what it would gain most from."""
        books = self._books
        hosts = [tier for tier in books.hosts.values() if not tier.warming]
        if not hosts:
            return
        worth = {m: v for m in books.models if (v := books.host_value(m, now)) > 0}
        best_first = sorted(worth, key=lambda m: (-worth[m], m))
        for tier in hosts:
            model = next((m for m in best_first if m not in tier.held), "")
            if model and tier.warm(model, now):
                self._tell(tier)

    def _to_host(self, device: Device, model: str, now: float) -> None:
        """Weights at hand may stay in the memory of the node."""
        tier = self._books.hosts.get(device.node)
        gains = self._books.models[model].gains_from_host > 0
        if tier is not None and gains and tier.admit(model, now):
            self._tell(tier)

    def _tell(self, tier: HostTier) -> None:
        self._books.out.append(Hold(tier.node, tuple(tier.held), tier.warming))
