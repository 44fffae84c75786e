"""What stands behind the door when it is measured: a database, a scheduler, gateways; no device, so
that all that is submitted waits. Beside them the echo. Each is a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from atelier.embedded.part import Part
from atelier.embedded.rooms import Room
from atelier.embedded.stack import StackOptions, build
from atelier.embedded.state import StateDir
from atelier.embedded.supervisor import Hooks, Supervisor
from benchmarks.door_caller import READY, Came, Job

MOST_QUEUED = 1_000_000
PARTS = ("postgres", "scheduler", "gateway")


@dataclass(frozen=True)
class Door:
    """Addresses, the processes by name, and an operator's key."""

    gateway: str
    echo: str
    pids: dict[str, int]
    key: str


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Door]:
    """The door and the echo."""
    state = StateDir(folder)
    state.create()
    stack = build(state, StackOptions())
    parts = [_alone(part) for part in stack.parts if part.name in PARTS]
    supervisor = Supervisor(parts, state.logs, Hooks(notice=print))
    echo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.door_echo", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert echo.stdout
        address = f"127.0.0.1:{int(await echo.stdout.readline())}"
        await supervisor.start()
        pids = {
            record.name: record.pid or 0
            for record in (keeper.record() for keeper in supervisor.keepers.values())
        }
        yield Door(stack.gateway, address, {**pids, "echo": echo.pid}, state.read_key())
    finally:
        echo.terminate()
        await echo.wait()
        await supervisor.stop()


def _alone(part: Part) -> Part:
    """It needs nobody who is not there, and takes as much as comes."""
    part.needs = tuple(name for name in part.needs if name in PARTS)
    if isinstance(part, Room) and part.module == "scheduler":
        part.settings = {**part.settings, "ATELIER_MAX_QUEUED": str(MOST_QUEUED)}
    return part


async def call(job: Job, ready: Callable[[], Awaitable[None]] | None = None) -> Came:
    """Have a caller do it. ready: done once it says that it is, before what came of it is read."""
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.door_caller", json.dumps(asdict(job)),
        stdout=asyncio.subprocess.PIPE, limit=2**28,
    )  # fmt: skip
    assert caller.stdout
    if ready and (await caller.stdout.readline()).decode().strip() == READY:
        await ready()
    told = await caller.stdout.read()
    await caller.wait()
    if caller.returncode:
        raise RuntimeError(f"a caller ended with {caller.returncode}")
    return Came(**json.loads(told))


def cpu_seconds(pid: int) -> float:
    """That a process has used, and those that it started: PostgreSQL works in children."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if pid in (int(stat.parent.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def stolen_seconds() -> float:
    """Of this machine's processors, that went to others on the same host, since it started."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


class Stolen:
    """What share of the processors went to others meanwhile: what a virtual machine cannot see in
    its own load."""

    def __init__(self) -> None:
        self._before, self._began = stolen_seconds(), time.monotonic()

    def share(self) -> float:
        took = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return (stolen_seconds() - self._before) / took


def resident_bytes(pid: int) -> int:
    """That a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
