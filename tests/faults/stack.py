"""The whole stack over sleeping models, with proxies before the database and the object store, and
hands on each of its processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import psycopg

from atelier.embedded.part import Part
from atelier.embedded.postgres import Postgres
from atelier.embedded.processes import family
from atelier.embedded.rooms import Room
from atelier.embedded.s3 import ObjectStore
from atelier.embedded.stack import Stack as Parts
from atelier.embedded.stack import StackOptions, build
from atelier.embedded.state import StateDir
from atelier.embedded.supervisor import Hooks, Keeper, Supervisor
from atelier.failpoints import VARIABLE
from benchmarks.sleeping_repository import Sleeper, write_repository
from tests.faults.disks import Disk, make_disks
from tests.faults.proxy import FaultProxy

DEVICES, DEVICE_BYTES = 2, 1_500_000_000
MODELS = ("common", "rare")  # a device holds one of them
_SLEEPERS = [
    Sleeper(
        name, resident_bytes=1_000_000_000, activation_bytes=50_000_000, load_seconds=0.3,
        step_a=0.02, step_c=0.01, batch_cap=4,
    )
    for name in MODELS
]  # fmt: skip
SCHEDULERS = ("scheduler", "scheduler-1")


class Stack:
    """What runs. Parts are named as in processes.json."""

    def __init__(
        self,
        parts: Parts,
        logs: Path,
        database: FaultProxy,
        store: FaultProxy,
        disks: Mapping[str, Disk],
    ) -> None:
        self.gateway = parts.gateway
        self.disks = disks
        self.parts: dict[str, Part] = {part.name: part for part in parts.parts}
        self.database, self.store = database, store
        self.notices: list[str] = []
        self.refused_words = 0  # of zombies
        self.supervisor = Supervisor(parts.parts, logs, Hooks(notice=self.notices.append))
        self._between()
        rooms = [part for part in self.parts.values() if isinstance(part, Room)]
        self._settings = {room.name: room.settings for room in rooms}

    def _between(self) -> None:
        """Our processes go to the database and the store by the proxies."""
        postgres, s3 = self.postgres.address, self.object_store.address
        for part in self.parts.values():
            if isinstance(part, Room) and part.module != "webhooks":
                part.settings = {
                    name: value.replace(postgres, self.database.address).replace(
                        s3, self.store.address
                    )
                    for name, value in part.settings.items()
                }

    @property
    def postgres(self) -> Postgres:
        return cast(Postgres, self.parts["postgres"])

    @property
    def object_store(self) -> ObjectStore:
        return cast(ObjectStore, self.parts["s3"])

    def keeper(self, name: str) -> Keeper:
        return self.supervisor.keepers[name]

    def pid(self, name: str) -> int | None:
        return self.keeper(name).record().pid

    def leader(self) -> str:
        """The scheduler that leads, as the database has it."""
        with psycopg.connect(self.postgres.dsn, connect_timeout=3) as connection:
            [holder] = connection.execute("SELECT holder FROM leader").fetchone() or ("",)
        [name] = [n for n in SCHEDULERS if str(holder).endswith(self.parts[n].address)]
        return name

    def kill(self, name: str) -> None:
        """SIGKILL to the part's first process; the supervisor ends the rest of it."""
        if pid := self.pid(name):
            os.kill(pid, signal.SIGKILL)

    def freeze(self, name: str) -> list[int]:
        """SIGSTOP to all processes of a part; which they were."""
        pid = self.pid(name)
        stopped = family(pid) if pid else []
        for one in stopped:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP)
        return stopped

    async def restarted(self, name: str, before: int | None, seconds: float = 40.0) -> bool:
        """Wait for another process than `before`."""
        async with asyncio.timeout(seconds):
            while self.pid(name) in (None, before):  # noqa: ASYNC110 - a process tells nobody
                await asyncio.sleep(0.02)
        return True

    async def whole(self, seconds: float = 120.0) -> None:
        """Wait until every part has answered since its latest start.

        Raises:
            TimeoutError: one has not.
        """
        async with asyncio.timeout(seconds):
            while any(k.state != "ready" for k in self.supervisor.keepers.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def log(self, name: str) -> str:
        """What a part has said, as far back as it is kept."""
        path = self.keeper(name).log
        files = [path.with_suffix(".log.1"), path]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def told_full(self, what: str) -> int:
        """How often this part was told that its disk is full."""
        return self.log(what).lower().count("no space left on device")

    def arm(self, name: str, failpoints: str) -> None:
        """What its next process has; an empty text disarms."""
        self.wear(name, {VARIABLE: failpoints} if failpoints else {})

    def wear(self, name: str, more: Mapping[str, str]) -> None:
        """The environment of its next process, beside what it always has."""
        cast(Room, self.parts[name]).settings = {**self._settings[name], **more}


def thaw(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def running(folder: Path, *, disks: bool = False) -> AsyncIterator[Stack]:
    """All of it, in an empty folder.

    Args:
        disks: its state lies on disks of its own, which can be filled.
    """
    write_repository(folder / "repository", _SLEEPERS)
    state = StateDir(folder / "state")
    own = make_disks(state.root, folder) if disks else {}
    state.create()
    options = StackOptions(DEVICES, DEVICE_BYTES, schedulers=2, repository=folder / "repository")
    parts = build(state, options)
    ports = {
        part.name: int(part.address.rpartition(":")[2]) for part in parts.parts if part.address
    }
    async with FaultProxy(ports["postgres"]) as database, FaultProxy(ports["s3"]) as store:
        stack = Stack(parts, state.logs, database, store, own)
        try:
            await stack.supervisor.start()
            yield stack
        finally:
            stack.supervisor.hurry = True
            await stack.supervisor.stop()
            for disk in reversed(own.values()):
                disk.close()
