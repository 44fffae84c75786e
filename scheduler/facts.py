"""Whether what an agent says of a device can be true. Pure.

Facts come from outside: they are checked here, before the core hears them. The core asserts only
what it decided itself.
"""

from __future__ import annotations

from collections.abc import Collection

from scheduler.device import Cards, Device, activation_bytes
from scheduler.runqueue import Ticket


def misfit(
    capacity_bytes: int, resident: Collection[str], running: Collection[Ticket], cards: Cards
) -> str:
    """Why a device cannot be as it is said to be; empty where it can."""
    if len({ticket.key for ticket in running}) > 1:
        return "it says that it runs two kinds of work at once"
    if missing := {ticket.model for ticket in running} - set(resident):
        return f"it says that it runs {min(missing)}, and that this model is not there"
    needed = sum(cards[model].resident_bytes for model in set(resident) if model in cards)
    needed += sum(activation_bytes(ticket, cards) for ticket in running)
    if needed > capacity_bytes:
        return f"it says that it holds {needed} bytes, and that it has {capacity_bytes}"
    return ""


def believable(device: Device, model: str, *, resident: bool, cards: Cards) -> bool:
    """Whether a model may have come or gone, as a report says, beside what the device does."""
    if model not in cards:
        return False
    if resident:
        known = model in device.resident or model in (device.loading, device.unloading)
        return known or cards[model].resident_bytes <= device.free_bytes(cards)
    bound = [*device.running.values(), *([device.runnext] if device.runnext else [])]
    return all(ticket.model != model for ticket in bound)
