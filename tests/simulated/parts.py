"""The processes of a schedule: schedulers by the product's own `scheduler.app`, agents by its own
link, books and outbox. Whatever ends is started again, as by whoever keeps processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from datetime import UTC, datetime, tzinfo
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

from opentelemetry.metrics import NoOpMeter

import atelier.generation_store
import scheduler.app
import scheduler.live
import scheduler.sysmon
from agent.commands import Commands
from agent.link import Link
from agent.outbox import Outbox
from atelier.catalog import Catalog, ModelCard
from atelier.config import SchedulerSettings
from atelier.v1 import agent_pb2 as pb
from tests.simulated.database import SimDatabase
from tests.simulated.device import SimDevice, SimHost, SimTriton
from tests.simulated.loop import PROCESS, Process
from tests.simulated.network import Call, dial, serving
from tests.simulated.world import World
from tests.support.cards import toy_card

CARDS: dict[str, ModelCard] = {name: toy_card(name) for name in ("a", "b", "c")}
_CONNECT = "Connect"
LOOK_SECONDS = 0.25  # between two looks whether a process has ended
# What the checks look into after the schedule.
_KEPT = ("Live", "Fleet", "Lines", "Background", "Dispatch")


class _Wall(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        process = PROCESS.get()
        assert process and tz is UTC
        return process.world.wall(process.wall_offset)


@contextmanager
def edges(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Where the scheduler touches the world, it touches this one."""
    app = scheduler.app
    instead: dict[str, Any] = {
        "Catalog": SimpleNamespace(read=lambda _: Catalog(CARDS)),
        "Database": SimDatabase,
        "Leadership": partial(app.Leadership, clock=loop.time),
        "Pauses": lambda _: SimpleNamespace(run=_for_ever),
        "collect": lambda **_: _for_ever(),
        "datetime": _Wall,
        "exported": lambda *_: nullcontext(NoOpMeter("simulated")),
        "migrate": lambda _: [],
        "serving": serving,
        "settled": nullcontext,
        "time": SimpleNamespace(monotonic=loop.time),
        **{name: _kept(name, getattr(app, name)) for name in _KEPT},
    }
    with ExitStack() as stack:
        for name, value in instead.items():
            stack.enter_context(mock.patch.object(app, name, value))
        for module in (scheduler.live, scheduler.sysmon):
            stack.enter_context(mock.patch.object(module, "datetime", _Wall))
        stack.enter_context(mock.patch.object(atelier.generation_store, "Database", SimDatabase))
        # Walked in the order of their making, not of their addresses.
        stack.enter_context(mock.patch.object(asyncio.Event, "__init__", _numbered()))
        stack.enter_context(
            mock.patch.object(asyncio.Event, "__hash__", lambda self: self.number, create=True)
        )
        yield


def _numbered() -> Callable[[asyncio.Event], None]:
    real, count = asyncio.Event.__init__, iter(range(10**12))

    def init(self: Any) -> None:
        real(self)
        self.number = next(count)

    return init


def _kept(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*arguments: Any, **named: Any) -> Any:
        part = make(*arguments, **named)
        process = PROCESS.get()
        assert process
        process.parts[name.lower()] = part
        return part

    return made


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


class Keeper:
    """Starts a process, and starts it again a while after it ended or died. `stop`: in order."""

    def __init__(self, world: World, name: str, life: Callable[[], Any]) -> None:
        self.world, self.name = world, name
        self._life = life
        self.process: Process = world.process(name)
        self.task: asyncio.Task[Any] = self.process.start(life())

    def stop(self) -> None:
        """What SIGTERM does."""
        self.task.cancel()

    def double(self) -> Process:
        """The process stands still, is taken for dead, and another is started; the old one."""
        old, self.process = self.process, self.world.process(self.name)
        self.world.freeze(old)
        self.task = self.process.start(self._life())
        return old

    async def run(self) -> None:
        """In no process; until cancelled."""
        rng = self.world.rng
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.task.done() and self.process.alive:
                error = None if self.task.cancelled() else self.task.exception()
                self.world.tell(f"{self.name} ended {error!r}")
                self.process.kill()
            if not self.process.alive:
                await asyncio.sleep(rng.uniform(0.1, 4.0))
                self.process = self.world.process(self.name)
                self.task = self.process.start(self._life())


def scheduler_keeper(world: World, number: int, **changes: Any) -> Keeper:
    """`changes`: of its settings."""
    most = world.rng.choice((5, 200, 200))
    settings = SchedulerSettings(
        scheduler_listen=f"127.0.0.1:{7000 + number}", postgres_dsn="simulated", max_queued=most
    ).model_copy(update=changes)
    return Keeper(world, f"s{number}", lambda: scheduler.app._run(settings))


class _Heard(Commands):
    """Notes which epochs an agent obeyed."""

    def _run(self, message: pb.RunGeneration) -> None:
        process = PROCESS.get()
        assert process
        if message.epoch < process.parts.get("epoch", 0):
            process.world.broken.append(f"P4: {process.name} obeyed epoch {message.epoch}")
        process.parts["epoch"] = self.epoch
        super()._run(message)


def agent_keeper(world: World, node: str, tritons: list[SimTriton]) -> Keeper:
    host_bytes = world.rng.choice((0, 150, 350))

    @asynccontextmanager
    async def connect() -> AsyncIterator[Call]:
        call = dial(world, _CONNECT)
        try:
            yield call
        finally:
            call.cancel()

    async def life() -> None:
        devices = {t.id: SimDevice(t, CARDS) for t in tritons if not t.away}
        outbox = Outbox()
        host = SimHost(world, host_bytes, CARDS)
        commands = _Heard(devices, outbox, host)  # type: ignore[arg-type]
        for triton in tritons:
            triton.tell = commands.tell
        process = PROCESS.get()
        assert process
        process.parts |= {"commands": commands, "outbox": outbox}
        rng = Random(world.rng.random())
        link = Link(node, devices, commands, outbox, connect=connect, rng=rng, host=host)  # type: ignore[arg-type]
        try:
            await link.run()
        finally:
            await commands.close()

    return Keeper(world, node, life)
