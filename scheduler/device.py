"""A device (Go's P): the right to run on one GPU, and its memory, counted in one place. Pure.

What is free is derived, never kept: capacity less weights of what is resident, loading or
unloading, less activations of what is bound. So there is no path on which memory is not given back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.breaker import Breaker
from scheduler.model import Model, Shape, union
from scheduler.runqueue import Order, Ticket

Models = Mapping[str, Model]


def shape_of(ticket: Ticket, models: Models) -> Shape:
    """The costs of its shape."""
    return models[ticket.model].shapes[ticket.shape]


@dataclass(eq=False, slots=True)
class Device:
    """One GPU, or a CPU standing in for one."""

    id: str
    node: str
    capacity: float  # bytes, less the reserve
    declared: float = 0.0  # bytes, all of them
    speed: float = 1.0
    index: int = 0  # in the order of joining: ties are broken by it
    resident: dict[str, float] = field(default_factory=dict)  # model -> when last used, seconds
    loaded_at: dict[str, float] = field(default_factory=dict)
    running: dict[str, Ticket] = field(default_factory=dict)  # the batch; all of one key
    loading: str = ""  # one loader
    load_began: float = 0.0
    load_ends: float = 0.0  # as expected
    unloading: str = ""
    quarantined: str = ""  # why it takes no new work
    drained: str = ""  # why an operator wants it to take no new work
    pinned: set[str] = field(default_factory=set)  # models that stay, whatever they are worth
    overdrawn: bool = False  # what is there turned out to be larger than was declared
    gang: Ticket | None = None  # what its group is reserved for, or runs
    following: Ticket | None = None  # the gang's, while another member leads it
    yield_to: Order | None = None  # it drains for an older ticket whose model is on no device
    load_not_before: dict[str, float] = field(default_factory=dict)  # model -> back-off, seconds
    unload_not_before: dict[str, float] = field(default_factory=dict)
    breakers: dict[str, Breaker] = field(default_factory=dict)  # by model
    schedtick: int = 1  # batches led

    @property
    def usable(self) -> bool:
        return not self.quarantined and not self.drained

    def bars(self, model: str, now: float) -> bool:
        """Whether nothing of this model is to be begun here, because it failed again and again."""
        breaker = self.breakers.get(model)
        return breaker is not None and now < breaker.open_until

    def ran(self, model: str) -> None:
        """Something of a model came through."""
        self.breakers.pop(model, None)

    def ran_badly(self, model: str, now: float) -> float:
        """Something of a model failed. Seconds for which nothing of it is begun here."""
        return self.breakers.setdefault(model, Breaker()).failed(now)

    @property
    def decodes(self) -> bool:
        """Whether some of its batch have no steps left, and leave when they are decoded."""
        return any(ticket.steps_left <= 0 for ticket in self.running.values())

    @property
    def in_use(self) -> set[str]:
        """Models of what it runs, or is taken for: their weights stay."""
        tickets = [*self.running.values(), *([self.gang] if self.gang is not None else ())]
        return {ticket.model for ticket in tickets}

    @property
    def held(self) -> set[str]:
        """Models whose weights are there, coming or going."""
        there = {*self.resident, self.loading, self.unloading}
        there.discard("")
        return there

    def weights(self, models: Models) -> float:
        """Bytes of weights that are there, coming or going."""
        return union(models[m] for m in self.held)

    def activations(self, models: Models) -> float:
        """Bytes that the batch holds, or the gang that this device follows."""
        tickets = self.running.values()
        held = sum(t.rows * shape_of(t, models).activation for t in tickets)
        if self.following is not None:
            held += self.following.rows * shape_of(self.following, models).activation
        return held

    def free(self, models: Models) -> float:
        return self.capacity - self.weights(models) - self.activations(models)
