"""Whether what an agent says of a device can be true. Pure.

Facts come from outside: they are checked here, before the core hears them. The core asserts only
what it decided itself.
"""

from __future__ import annotations

from collections.abc import Collection

from scheduler.device import Device, Models, shape_of
from scheduler.runqueue import Ticket
from scheduler.sched import RESERVE


def rows_granted(ticket: Ticket, capacity_bytes: int, models: Models) -> int:
    """Of a ticket that runs there, the rows that it can have been granted: never more than fit."""
    most = models[ticket.model].most_rows(ticket.shape, capacity_bytes * (1 - RESERVE))
    return min(ticket.rows, max(1, most))


def misfit(
    capacity_bytes: int, resident: Collection[str], running: Collection[Ticket], models: Models
) -> str:
    """Why a device cannot be as it is said to be; empty where it can."""
    if len({ticket.queue for ticket in running}) > 1:
        return "it says that it runs two kinds of work at once"
    if missing := {ticket.model for ticket in running} - set(resident):
        return f"it says that it runs {min(missing)}, and that this model is not there"
    needed = sum(models[m].weights for m in set(resident) if m in models)
    needed += sum(t.rows * shape_of(t, models).activation for t in running)
    if needed > capacity_bytes * (1 - RESERVE):
        return f"it says that it holds {needed:.0f} bytes, and that it has {capacity_bytes}"
    return ""


def believable(device: Device, model: str, *, resident: bool, models: Models) -> bool:
    """Whether a model may have come or gone, as a report says, beside what the device does."""
    if model not in models:
        return False
    if resident:
        known = model in device.resident or model in (device.loading, device.unloading)
        return known or models[model].weights <= device.free(models)
    return all(ticket.model != model for ticket in device.running.values())
