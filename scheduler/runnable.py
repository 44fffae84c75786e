"""The first that waits for a model of a device. Pure."""

from __future__ import annotations

from scheduler.books import Books
from scheduler.device import Device
from scheduler.runqueue import Ticket

OLDEST_EVERY = 61  # Go's schedtick % 61: an idle device then serves the oldest, of any class
STARVING = 300.0  # seconds of waiting from which on that is so


def find_runnable(books: Books, device: Device, now: float) -> Ticket | None:
    """The first among the queues of what is resident; now and then the oldest.

    What would not fit beside the weights that are there is passed over; wants make room for it.
    """
    oldest = device.schedtick % OLDEST_EVERY == 0 and not device.running
    long_ago = now - STARVING
    best: Ticket | None = None
    for model in device.resident:
        if not books.queues.count[model] or books.models[model].gang > 1:
            continue
        if device.bars(model, now):
            continue
        for queue in list(books.queues.by_model[model].values()):
            head = books.queues.head(queue, now)
            if head is None or not books.fits(device, head):
                continue
            if best is None:
                best = head
            elif oldest and min(head.submitted, best.submitted) < long_ago:
                best = head if head.submitted < best.submitted else best
            elif head.order < best.order:
                best = head
    if best is not None and device.yield_to is not None and best.order > device.yield_to:
        return None
    return best
