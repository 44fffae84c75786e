"""A device (Go's P): the right to run on one GPU, and its memory, counted in one place. Pure.

`reserved_bytes` is derived, never kept: weights of what is resident or loading, plus activations of
what is bound. So there is no path on which memory is not given back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from atelier.catalog import ModelCard
from scheduler.runqueue import Key, Order, Ticket

Cards = Mapping[str, ModelCard]


def activation_bytes(ticket: Ticket, cards: Cards) -> int:
    """What a ticket needs while it runs; a large one goes in chunks of the batch cap."""
    profile = cards[ticket.model].profile(ticket.shape)
    return min(ticket.rows, profile.batch_cap) * profile.activation_bytes_per_row


@dataclass
class Device:
    """One GPU, or a CPU standing in for one."""

    id: str
    node: str
    capacity_bytes: int
    resident: dict[str, float] = field(default_factory=dict)  # model -> when last used, seconds
    running: dict[str, Ticket] = field(default_factory=dict)  # the batch; all of one key
    runnext: Ticket | None = None  # the one that its load is for; leads when that is done
    loading: str | None = None  # one loader
    unloading: str | None = None
    yield_to: Order | None = None  # it drains for an older ticket whose model is on no device
    quarantined: str = ""  # why it takes no new work
    load_not_before: dict[str, float] = field(default_factory=dict)  # model -> back-off, seconds

    @property
    def key(self) -> Key | None:
        """What its batch runs; None while it is idle."""
        return next((ticket.key for ticket in self.running.values()), None)

    @property
    def rows(self) -> int:
        return sum(ticket.rows for ticket in self.running.values())

    @property
    def usable(self) -> bool:
        return not self.quarantined

    def reserved_bytes(self, cards: Cards) -> int:
        """Weights and activations that are spoken for."""
        models = set(self.resident) | {m for m in (self.loading, self.unloading) if m}
        weights = sum(cards[m].resident_bytes for m in models if m in cards)
        bound = [*self.running.values(), *([self.runnext] if self.runnext else [])]
        return weights + sum(activation_bytes(t, cards) for t in bound)

    def free_bytes(self, cards: Cards) -> int:
        return self.capacity_bytes - self.reserved_bytes(cards)

    def can_run(self, ticket: Ticket, cards: Cards) -> bool:
        """Whether the ticket fits now: its model resident, its rows and its memory free."""
        if ticket.model not in self.resident or ticket.model == self.unloading:
            return False
        if self.running and self.key != ticket.key:
            return False
        cap = cards[ticket.model].profile(ticket.shape).batch_cap
        room = not self.running or self.rows + ticket.rows <= cap
        return room and activation_bytes(ticket, cards) <= self.free_bytes(cards)

    def bind(self, ticket: Ticket, cards: Cards, now: float) -> None:
        """Take the ticket and its memory. Only after `can_run` said so."""
        assert self.can_run(ticket, cards), f"{self.id} cannot run {ticket.id}"
        self.running[ticket.id] = ticket
        self.resident[ticket.model] = now
