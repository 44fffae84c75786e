"""One schedule's world: its time, its chance, its processes, and what lies between them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

from tests.simulated.loop import Process, VirtualLoop, apart
from tests.simulated.tables import Tables

if TYPE_CHECKING:
    from tests.simulated.network import Call, Server

EPOCH = datetime(2026, 11, 23, tzinfo=UTC)
KEEPALIVE = 4.0, 6.0  # seconds until a frozen peer is given up


class World:
    """One schedule's. `store_faults`: how likely each fault of a statement is now."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.rng = Random(seed)
        self.wall_offset = 0.0  # of the database's clock
        self.tables = Tables(lambda: self.wall(self.wall_offset), loop.time)
        self.processes: list[Process] = []
        self.servers: dict[Process, Server] = {}  # those that serve
        self.calls: list[Call] = []
        self.store_faults: dict[str, float] = {}
        self.cut_off: set[Process] = set()  # whom the database does not answer
        self.lease_ends: dict[Process, float] = {}  # by the leader's own clock, at the latest
        self.slowness = 1.0
        self.faults: Counter[str] = Counter()  # those that were done
        self.objects: set[str] = set()
        self.broken: list[str] = []  # promises, and anything that should not be
        self.told: list[str] = []  # all that happened, to compare two runs by

    def wall(self, offset: float = 0.0) -> datetime:
        return EPOCH + timedelta(seconds=self.loop.now + offset)

    def process(self, name: str) -> Process:
        """A new one."""
        process = Process(self.loop, name, self)
        process.on_death = lambda: self._died(process)
        self.processes.append(process)
        return process

    def tell(self, what: str) -> None:
        self.told.append(f"{self.loop.now:.6f} {what}")

    def delay(self) -> float:
        """Seconds that a message is under way; mostly few, sometimes many."""
        seconds = self.rng.expovariate(500.0)
        if self.rng.random() < 0.02:
            seconds += self.rng.uniform(0.0, 0.5)
        return seconds * self.slowness

    def freeze(self, process: Process) -> None:
        """Its peers find out after a while, if it lasts."""
        process.freeze()
        for call in [call for call in self.calls if process in call.ends]:
            apart(self.loop, self.rng.uniform(*KEEPALIVE), lambda c=call: c.cut_if_frozen())

    def _died(self, process: Process) -> None:
        self.tell(f"{process.name} died")
        self.servers.pop(process, None)
        for call in [call for call in self.calls if process in call.ends]:
            call.cut(self.delay())
