"""What is simulated, and what came of it: a fleet, models and requests in; outcomes out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from scheduler.decisions import Decision
from scheduler.device import Device
from scheduler.model import Model
from scheduler.runqueue import Ticket

DRAIN_SECONDS = 900.0  # after the horizon; what is unfinished then never finishes


@dataclass(frozen=True)
class Gpu:
    id: str
    node: str
    memory: float  # bytes
    speed: float
    type: str = ""


@dataclass(frozen=True)
class Scenario:
    """A folder of fleet.json, models.json, scenario.json and trace.csv, read.

    The tickets of `requests` are patterns: each run works on copies.
    """

    name: str
    horizon: float  # seconds; arrivals end here
    warmup: float  # seconds; what arrives before is not counted
    gpus: tuple[Gpu, ...]
    models: dict[str, Model]
    requests: tuple[Ticket, ...]
    failures: tuple[tuple[float, str, str], ...] = ()  # (when, "fail" or "recover", gpu)
    checkpoint_steps: int = 10
    seed: int = 0
    rho: float = 0.0  # offered work a second, alone, over the fleet's speed
    host_memory: Mapping[str, float] = field(default_factory=dict)  # node -> bytes for weights


@dataclass
class Outcome:
    """What became of one request; times are -1 where they never came."""

    ticket: Ticket
    start: float = -1.0
    finish: float = -1.0
    gpu: str = ""
    rejected: bool = False
    preemptions: int = 0
    moves: int = 0
    cold: bool = False  # its model was on no device when it came


class Span(NamedTuple):
    """What one device did from `began` to `ended`; what does not apply to the kind is empty.

    Of the kinds warm and hold, `gpu` is the node, and `requests` are the models held from then on.
    """

    kind: str  # load, unload, steps, decode, fail, recover, warm, hold
    gpu: str
    began: float
    ended: float
    model: str = ""
    shape: str = ""
    requests: tuple[str, ...] = ()
    steps: int = 0
    evicted: tuple[str, ...] = ()
    cut: bool = False  # short, by a failure


@dataclass
class Run:
    """All that a run produced. Seconds are device seconds, up to the horizon."""

    scenario: Scenario
    outcomes: dict[str, Outcome]
    busy: float = 0.0  # computing; a gang counts each of its devices
    loading: float = 0.0  # a load was under way
    stalled: float = 0.0  # a load was under way and nothing was computed beside it
    loads: int = 0  # after the warm-up
    host_loads: int = 0  # of them, faster than from disk alone
    warmed: int = 0  # models read into host memories, after the warm-up
    switches: int = 0  # a device ran another model than before, after the warm-up
    decision_seconds: list[float] = field(default_factory=list)  # of submit and boundary, if timed
    events: int = 0
    ended: float = 0.0
    timeline: list[Span] = field(default_factory=list)  # if asked for


class Policy(Protocol):
    """What a simulator asks of a policy. `Sched` is one.

    A device's `load_ends` says how long a load that was decided takes.
    """

    models: dict[str, Model]
    devices: dict[str, Device]

    def host_up(self, node: str, capacity: float) -> None: ...

    def warmed(self, node: str, model: str) -> None: ...

    def submit(self, ticket: Ticket, now: float) -> list[Decision]: ...

    def boundary(self, device_id: str, now: float) -> list[Decision]: ...

    def finished(self, ticket: Ticket) -> None: ...

    def loaded(self, device_id: str, model: str, now: float) -> list[Decision]: ...

    def unloaded(self, device_id: str, model: str, now: float) -> list[Decision]: ...

    def device_up(
        self, device_id: str, node: str, capacity: float, now: float,
        *, speed: float = 1.0, resident: Iterable[str] = (),
    ) -> list[Decision]: ...  # fmt: skip

    def device_down(self, device_id: str) -> list[Ticket]: ...

    def again(self, ticket: Ticket, now: float) -> list[Decision]: ...

    def tick(self, now: float) -> list[Decision]: ...
