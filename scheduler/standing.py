"""What operators ordered: drains, pins, loads and unloads. Pure.

Drains and pins outlive their device: it finds them when it comes back.
"""

from __future__ import annotations

from scheduler.books import Books
from scheduler.device import Device
from scheduler.placement import Placement
from scheduler.residency import Residency
from scheduler.wants import Wants

DISMISSED = 300.0  # seconds for which an unload by order holds against prefetch


class OrderRefusedError(Exception):
    """An order that cannot be carried out now."""

    def __init__(self, reason: str, message: str) -> None:
        """`reason`: one upper-case word for programs; `message`: what is in the way, for people."""
        super().__init__(message)
        self.reason = reason
        self.message = message


class Standing:
    """Standing orders by device, and those that are done at once. Part of the core."""

    def __init__(
        self, books: Books, placement: Placement, residency: Residency, wants: Wants
    ) -> None:
        self._books = books
        self._placement = placement
        self._residency = residency
        self._wants = wants
        self.drained: dict[str, str] = {}  # device -> why
        self.pinned: dict[str, set[str]] = {}  # device -> models

    def apply(self, device: Device) -> None:
        """A device joins: what was ordered of it holds."""
        device.drained = self.drained.get(device.id, "")
        device.pinned = self.pinned.setdefault(device.id, set())

    def pin(self, model: str, device_id: str, now: float) -> None:
        """Keep it there, beside what else is pinned, from when the device is there.

        Raises:
            OrderRefusedError: it is there and has no room.
        """
        device = self._books.devices.get(device_id)
        if device is not None:
            self._check(model, device)
        self.pinned.setdefault(device_id, set()).add(model)
        if device is not None:
            self.restore_pins(device, now)

    def _check(self, model: str, device: Device) -> None:
        costs = [self._books.models[m] for m in {model, *device.pinned}]
        if any(c.gang > 1 for c in costs):
            raise OrderRefusedError("GANG_MODEL", f"{model} is split over devices: no pins for it")
        needed = self._books.union([c.name for c in costs]) + max(c.activation for c in costs)
        if needed > device.capacity:
            held = f"with {model} pinned, {needed:.0f} bytes would be held on {device.id}"
            raise OrderRefusedError("NO_ROOM", f"{held}, which has {device.capacity:.0f}")

    def restore_pins(self, device: Device, now: float) -> None:
        """Load what is pinned and not there, as soon as that can be."""
        if device.loading or device.unloading or not device.usable:
            return
        for model in sorted(device.pinned - device.resident.keys()):
            if device.load_not_before.get(model, 0.0) > now:
                continue
            if found := self._placement.victims(model, device, now):
                self._residency.load(model, device, found[1], now, "it is pinned here")
                return

    def load(self, model: str, device: Device | None, now: float) -> None:
        """Load it, whatever it displaces. Raises OrderRefusedError."""
        costs = self._books.models[model]
        if costs.gang > 1:
            raise OrderRefusedError(
                "GANG_MODEL",
                f"{model} is split over {costs.gang} devices; it is loaded when it is asked for",
            )
        if device is None:
            place = self._placement.pick(model, now)
            if place is None:
                raise OrderRefusedError(
                    "NO_ROOM",
                    f"{model} needs {costs.weights:.0f} bytes and {costs.activation:.0f} to run; "
                    "on every device, what is in use or pinned leaves less",
                )
            _, device, victims = place
        elif model in device.resident or device.loading == model:
            return
        else:
            self._free_to_change(device)
            found = self._placement.victims(model, device, now)
            if found is None:
                raise OrderRefusedError(
                    "NO_ROOM",
                    f"{model} needs {costs.weights:.0f} bytes and {costs.activation:.0f} to run; "
                    f"{device.id} has {device.capacity:.0f}, and what is in use or pinned stays",
                )
            victims = found[1]
        device.load_not_before.pop(model, None)
        self._residency.load(model, device, victims, now, "ordered")

    def unload(self, model: str, device: Device, now: float) -> None:
        """Unload it; it is not prefetched again for a while. Raises OrderRefusedError."""
        if model not in device.resident:
            return
        self._free_to_change(device)
        if model in device.pinned:
            raise OrderRefusedError("MODEL_PINNED", f"{model} is pinned on {device.id}; unpin it")
        if model in device.in_use:
            raise OrderRefusedError("MODEL_IN_USE", f"{model} runs on {device.id}; drain it first")
        self._wants.dismissed[model] = now + DISMISSED
        self._residency.unload(model, device, now, "ordered")

    def _free_to_change(self, device: Device) -> None:
        """Raise OrderRefusedError where nothing can be loaded or unloaded now."""
        if device.quarantined:
            raise OrderRefusedError("DEVICE_QUARANTINED", f"{device.id}: {device.quarantined}")
        if device.loading or device.unloading:
            what = f"loads {device.loading}" if device.loading else f"unloads {device.unloading}"
            raise OrderRefusedError("DEVICE_BUSY", f"{device.id} {what}; try again when it has")
