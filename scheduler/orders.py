"""Operators' orders: checked here, written down where they are to last, then given to the core.

A drain or a pin holds until it is taken back, so the database has it; the core has the same for the
devices that are there and for those that are away. Where a write is not acknowledged, the database
is read again as soon as it answers, the core follows it, and what was not written by then never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TypeVar

import structlog

from atelier.errors import FailedPreconditionError, NotFoundError, UnavailableError
from atelier.order_store import OrderStore
from atelier.status import cut
from scheduler.background import Background
from scheduler.decisions import Load
from scheduler.fleet import AWAY
from scheduler.live import Live
from scheduler.outcomes import persist
from scheduler.standing import OrderRefusedError

log = structlog.get_logger()

T = TypeVar("T")

NO_REASON = "an operator drains it"
MOST_NAMES = 10  # that an error lists


class Orders:
    """One at a time, so that the core and the database agree on which came last.

    Methods raise NotFoundError for an unknown device or model, FailedPreconditionError where an
    order cannot be carried out as things stand, and UnavailableError while the database is away.
    """

    def __init__(self, store: OrderStore, live: Live, background: Background) -> None:
        self._store = store
        self._live = live
        self._background = background
        self._one = asyncio.Lock()

    async def take_up(self) -> None:
        """Have the core know what the database has."""
        async with self._one:
            stands, sched = await self._store.settle(), self._live.sched
            for device_id in sched.drained.keys() - stands.drained.keys():
                self._live.did(sched.undrain(device_id))
            for device_id, reason in stands.drained.items():
                if sched.drained.get(device_id) != reason:
                    self._live.did(sched.drain(device_id, reason))
            for device_id, models in sched.pinned.items():
                for model in models - stands.pinned.get(device_id, set()):
                    sched.unpin(model, device_id)
            for device_id, models in stands.pinned.items():
                for model in sorted(models - sched.pinned.get(device_id, set())):
                    self._pin_again(model, device_id)

    def _pin_again(self, model: str, device_id: str) -> None:
        sched = self._live.sched
        if model not in sched.models:
            log.warning("pinned model is not served", model=model, device=device_id)
            return
        try:
            self._live.did(sched.pin(model, device_id, self._live.now()))
        except OrderRefusedError as error:
            log.warning("not pinned", model=model, device=device_id, reason=error.message)

    async def drain(self, device_id: str, reason: str) -> None:
        """Give it no new work, for this reason; where that is empty, for the one it has."""
        self._known(device_id)
        async with self._one:
            sched = self._live.sched
            why = reason or sched.drained.get(device_id) or NO_REASON
            await self._write(self._store.drain(device_id, why))
            self._live.did(sched.drain(device_id, why))
        log.info("order: drain", device=device_id, reason=why)

    async def undrain(self, device_id: str) -> None:
        """Give it work again."""
        self._known(device_id)
        async with self._one:
            await self._write(self._store.undrain(device_id))
            self._live.did(self._live.sched.undrain(device_id))
        log.info("order: undrain", device=device_id)

    async def pin(self, model: str, device_id: str) -> None:
        """Keep it there. The core checks first: what it refuses is not written."""
        self._known(device_id)
        self._served(model)
        async with self._one:
            sched, now = self._live.sched, self._live.now()
            with self._refusing(device_id):
                self._live.did(sched.pin(model, device_id, now))
            await self._write(self._store.pin(device_id, model))
        log.info("order: pin", device=device_id, model=model)

    async def unpin(self, model: str, device_id: str) -> None:
        """Leave it to its worth; also one that is not served any more, wherever it was pinned."""
        async with self._one:
            was_there = await self._write(self._store.unpin(device_id, model))
            self._live.sched.unpin(model, device_id)
        if not was_there:
            self._known(device_id)
            self._served(model)
        log.info("order: unpin", device=device_id, model=model)

    def load(self, model: str, device_id: str) -> str:
        """Load it there; where no device is named, on one if it is on none. The device's id."""
        self._served(model)
        sched, now = self._live.sched, self._live.now()
        if device_id:
            self._present(device_id)
        elif there := [*sched.books.replicas[model], *sched.books.loading[model]]:
            return there[0].id
        with self._refusing(device_id):
            made = sched.order_load(model, device_id, now)
        self._live.did(made)
        log.info("order: load", device=device_id, model=model)
        return device_id or next(d.device_id for d in made if isinstance(d, Load))

    def unload(self, model: str, device_id: str) -> None:
        """Unload it where it is idle."""
        self._served(model)
        self._present(device_id)
        sched, now = self._live.sched, self._live.now()
        with self._refusing(device_id):
            self._live.did(sched.order_unload(model, device_id, now))
        log.info("order: unload", device=device_id, model=model)

    async def _write(self, write: Awaitable[T]) -> T:
        try:
            return await write
        except UnavailableError:  # it may have been written all the same
            self._background.spawn(persist(self.take_up))
            raise

    def _known(self, device_id: str) -> None:
        """It is there, or there is an order about it."""
        sched = self._live.sched
        ordered = {*sched.drained, *(d for d, models in sched.pinned.items() if models)}
        if device_id not in sched.devices and device_id not in ordered:
            raise _not_found("device", device_id, {*sched.devices, *ordered})

    def _present(self, device_id: str) -> None:
        self._known(device_id)
        if device_id not in self._live.sched.devices:
            raise FailedPreconditionError(
                f"{device_id}: {AWAY}; start it, and order again", reason="DEVICE_AWAY"
            )

    def _served(self, model: str) -> None:
        if model not in self._live.sched.models:
            raise _not_found("model", model, self._live.sched.models)

    @contextmanager
    def _refusing(self, device_id: str) -> Iterator[None]:
        """What the core refuses, as a caller is told it."""
        try:
            yield
        except OrderRefusedError as error:
            device = self._live.sched.devices.get(device_id)
            busy = device and device.loading and error.reason == "DEVICE_BUSY"
            left = device.load_ends - self._live.now() if device and busy else None
            raise FailedPreconditionError(
                error.message,
                reason=error.reason,
                retry_after_seconds=None if left is None else max(0.5, left),
            ) from error


def _not_found(kind: str, name: str, known: Collection[str]) -> NotFoundError:
    """Says what is near it; else, what there is."""
    if near := get_close_matches(name, known, cutoff=0.5):
        hint = f"do you mean {' or '.join(near)}?"
    else:
        names = sorted(known)
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        hint = f"there are: {', '.join(names[:MOST_NAMES])}{more}" if names else "there is none"
    return NotFoundError(f"there is no {kind} {cut(name, 60)}; {hint}", reason=f"NO_{kind.upper()}")
