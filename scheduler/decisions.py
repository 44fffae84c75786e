"""What the core decides, and why; the loops (or the simulator) carry it out. Pure.

A reason is for people: a few words, and the figures that were compared where there are any.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.runqueue import Ticket


@dataclass(frozen=True, slots=True)
class Bind:
    """Run this generation on this device, from its next step on."""

    ticket: Ticket
    device_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Preempt:
    """Take this generation off its device; it keeps its latents and waits again."""

    ticket: Ticket
    device_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """Load this model on this device, after these residents are unloaded."""

    model: str
    device_id: str
    evict: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload this idle resident, whose place is needed for activations; `unloaded` must follow."""

    model: str
    device_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """A node's memory should hold these models' weights, and no others.

    `warming` is to be read from disk for it now (empty for none); `warmed` must follow.
    """

    node: str
    models: tuple[str, ...]
    warming: str = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """What should be there in the end."""
        return (*self.models, self.warming) if self.warming else self.models


@dataclass(frozen=True, slots=True)
class Boundary:
    """This device should ask `boundary` at its next step boundary; at once if it is idle."""

    device_id: str


@dataclass(frozen=True, slots=True)
class Reject:
    """This generation cannot meet its objective any more, and is not to be run."""

    ticket: Ticket
    reason: str = "it cannot be in time any more"


Decision = Bind | Preempt | Load | Unload | Hold | Boundary | Reject
