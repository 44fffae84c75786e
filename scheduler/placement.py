"""Where a model that waits should be loaded, and what must go for it. Pure.

First shape: a model is loaded when a generation waits for it that no device with the model can ever
run; it goes to the device with the most memory to spare, after the least recently used idle models
there were unloaded. What each replica is worth is the fuller policy's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.device import Cards, Device, activation_bytes
from scheduler.runqueue import Ticket


@dataclass(frozen=True)
class Placement:
    """Make the ticket's model run on this device: unload these, then load it if it is not there."""

    device: Device
    evict: tuple[str, ...]


def pick(ticket: Ticket, devices: Iterable[Device], cards: Cards, now: float) -> Placement | None:
    """The device where making room for the ticket displaces least; None where it fits nowhere."""
    found = [
        Placement(device, evict)
        for device in devices
        if (evict := _evictions(ticket, device, cards, now)) is not None
    ]
    return min(
        found,
        key=lambda p: (len(p.evict), len(p.device.running), -p.device.free_bytes(cards),
                       p.device.id),
        default=None,
    )  # fmt: skip


def is_home(ticket: Ticket, device: Device, cards: Cards) -> bool:
    """Whether the ticket's model is resident there, and the ticket would fit beside it alone."""
    weights = cards[ticket.model].resident_bytes
    fits = weights + activation_bytes(ticket, cards) <= device.capacity_bytes
    return device.usable and ticket.model in device.resident and fits


def _evictions(ticket: Ticket, device: Device, cards: Cards, now: float) -> tuple[str, ...] | None:
    """What must be unloaded to make room, oldest use first; None where that is not possible.

    Where the model is resident already, what lacks is room for activations; a batch that runs there
    is left to end first.
    """
    busy = device.loading or device.unloading or device.runnext
    backing_off = device.load_not_before.get(ticket.model, now) > now
    if busy or backing_off or not device.usable:
        return None
    needed = activation_bytes(ticket, cards)
    resident = ticket.model in device.resident
    if not resident:
        needed += cards[ticket.model].resident_bytes
    missing = needed - device.free_bytes(cards)
    if resident and (device.running or missing <= 0):
        return None
    in_use = {ticket.model, *(t.model for t in device.running.values())}
    evict: list[str] = []
    for model in sorted(device.resident, key=lambda m: (device.resident[m], m)):
        if missing <= 0:
            break
        if model not in in_use:
            evict.append(model)
            missing -= cards[model].resident_bytes if model in cards else 0
    return tuple(evict) if missing <= 0 else None


def drain(ticket: Ticket, devices: Iterable[Device], cards: Cards, now: float) -> Device | None:
    """The device whose batch should run out for this ticket, where `pick` found no place.

    Only after it has waited for as long as its load takes: sooner, models would chase each other.
    """
    card = cards[ticket.model]
    needed = card.resident_bytes + activation_bytes(ticket, cards)
    if now - ticket.submitted < card.load_seconds:
        return None
    able = [
        d for d in devices
        if d.usable and d.capacity_bytes >= needed and not (d.loading or d.unloading or d.runnext)
        and d.load_not_before.get(ticket.model, now) <= now
    ]  # fmt: skip
    return min(able, key=lambda d: (len(d.running), d.id), default=None)
