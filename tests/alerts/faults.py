"""A fault for each alert, induced in a real house over sleeping models.

`before` is done before anything is recorded, `during` while it is; a light load goes on beside, but
where the fault is that there is none.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psycopg

from atelier.embedded.postgres import Postgres
from atelier.embedded.processes import family
from atelier.embedded.rooms import Room
from atelier.embedded.stack import StackOptions, build
from atelier.embedded.state import StateDir
from atelier.embedded.supervisor import Hooks, Supervisor
from atelier.failpoints import VARIABLE
from atelier.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2_grpc
from atelier.v1 import generation_pb2 as pb
from benchmarks.sleeping_repository import Sleeper, write_repository
from tests.support.ports import free_address
from tests.support.s3 import S3Server

DEVICES, DEVICE_BYTES = 2, 1_500_000_000  # a device holds one model
MODELS = ("first", "second", "third", "misfit")
LISTENS = {
    "scheduler": "ATELIER_METRICS_LISTEN",
    "gateway": "ATELIER_GATEWAY_METRICS_LISTEN",
    "agent": "ATELIER_AGENT_METRICS_LISTEN",
    "webhooks": "ATELIER_WEBHOOKS_METRICS_LISTEN",
}
CALL_SECONDS = 60.0
AWAY = "http://127.0.0.1:9/"


@dataclass
class House:
    """What runs, and what a fault needs of it."""

    supervisor: Supervisor
    postgres: Postgres
    endpoints: dict[str, str]  # job -> where its metrics are
    channel: grpc.aio.Channel
    frozen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.door = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self.channel)

    async def draw(
        self, model: str = "first", priority: str = "NORMAL", steps: int = 6, hook: str = ""
    ) -> None:
        """One picture, waited for. What becomes of it is the alerts' to tell."""
        request = pb.CreateGenerationRequest(
            model=model,
            image=pb.ImageSpec(prompt="sleep", steps=steps, guidance=1.0),
            priority=pb.Priority.Value(f"PRIORITY_{priority}"),
            webhook_url=hook,
        )
        with suppress(grpc.aio.AioRpcError):
            async for _ in self.door.Generate(
                pb.GenerateRequest(create=request), timeout=CALL_SECONDS
            ):
                pass

    def freeze(self, part: str) -> None:
        """SIGSTOP to all of it."""
        for pid in family(self.supervisor.keepers[part].record().pid or 0):
            os.kill(pid, signal.SIGSTOP)
            self.frozen.append(pid)

    @asynccontextmanager
    async def locked(self, table: str, mode: str) -> AsyncIterator[None]:
        """A transaction that somebody forgot holds a table."""
        async with await psycopg.AsyncConnection.connect(self.postgres.dsn) as connection:
            await connection.execute(f"LOCK TABLE {table} IN {mode} MODE")  # type: ignore[arg-type]
            yield


Act = Callable[[House, AsyncExitStack], Awaitable[None]]


async def nothing(house: House, stack: AsyncExitStack) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """What makes an alert fire. `seconds`: of the recording."""

    during: Act = nothing
    before: Act = nothing
    seconds: int = 40
    load: bool = True
    agent: str = ""  # its failpoints
    second_store: bool = False


async def _drained(house: House, stack: AsyncExitStack) -> None:
    """Devices are taken out of service, forgotten, and come back to a queue."""
    for _ in range(6):
        await house.draw(priority="INTERACTIVE")
    for number in range(DEVICES):
        order = fleet_pb2.DrainDeviceRequest(device_id=f"cpu-{number}", reason="cables")
        await house.fleet.DrainDevice(order, timeout=CALL_SECONDS)
    waiting = [asyncio.create_task(house.draw(priority="INTERACTIVE")) for _ in range(120)]
    await asyncio.sleep(14)
    for number in range(DEVICES):
        back = fleet_pb2.UndrainDeviceRequest(device_id=f"cpu-{number}")
        await house.fleet.UndrainDevice(back, timeout=CALL_SECONDS)
    await asyncio.gather(*waiting)


async def _leader_locked_out(house: House, stack: AsyncExitStack) -> None:
    """Somebody holds the row of the leader: who led has given up, and stands by with the others."""
    await stack.enter_async_context(house.locked("leader", "ACCESS EXCLUSIVE"))
    keeper = house.supervisor.keepers["scheduler"]
    before = keeper.record().pid
    async with asyncio.timeout(90):
        while keeper.record().pid in (None, before):  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.1)
    await asyncio.sleep(5)  # until it listens again


async def _misfit(house: House, stack: AsyncExitStack) -> None:
    """A model was exported wrong: of six pictures one is of another size."""
    while True:
        await house.draw("misfit")


async def _device_frozen(house: House, stack: AsyncExitStack) -> None:
    await asyncio.sleep(5)
    house.freeze("triton-1")


async def _gateway_frozen(house: House, stack: AsyncExitStack) -> None:
    await asyncio.sleep(10)
    house.freeze("gateway")


async def _outbox_locked(house: House, stack: AsyncExitStack) -> None:
    """Nobody can take a lane: deliveries are due, and no worker comes."""
    await stack.enter_async_context(house.locked("webhook_lanes", "EXCLUSIVE"))
    for _ in range(5):
        await house.draw(hook=AWAY)


async def _busy(house: House, stack: AsyncExitStack) -> None:
    """As many callers as devices can just serve: all of their time, and nobody waits long."""

    async def caller() -> None:
        while True:
            await house.draw(steps=40)

    await asyncio.gather(*(caller() for _ in range(10)))


async def _loading(house: House, stack: AsyncExitStack) -> None:
    """More models are asked for than the devices hold, one after the other."""
    while True:
        for model in ("second", "third", "first"):
            await house.draw(model)


async def _slow_store(house: House, stack: AsyncExitStack) -> None:
    """Uploads take far longer than steps, which is all that an estimate knows of."""

    async def caller() -> None:
        while True:
            await house.draw()

    await asyncio.gather(*(caller() for _ in range(8)))


async def _store_frozen(house: House, stack: AsyncExitStack) -> None:
    await asyncio.sleep(5)
    house.freeze("s3")


FAULTS: dict[str, Fault] = {
    "": Fault(),
    "AtelierQueueWaitBurning": Fault(_drained, seconds=35, load=False),
    "AtelierNoLeader": Fault(before=_leader_locked_out, seconds=20, load=False),
    "AtelierFailures": Fault(_misfit),
    "AtelierDeviceLost": Fault(_device_frozen, seconds=25),
    "AtelierPartDown": Fault(_gateway_frozen, seconds=25),
    "AtelierOutboxStuck": Fault(_outbox_locked, seconds=60),
    "AtelierDevicesBusy": Fault(_busy, seconds=50, load=False),
    "AtelierLoadingShare": Fault(_loading, seconds=60, load=False),
    "AtelierEtaError": Fault(_slow_store, seconds=60, load=False, agent="before_upload=sleep(4)"),
    "AtelierSecondStore": Fault(_store_frozen, second_store=True),
}


@asynccontextmanager
async def house(folder: Path, fault: Fault) -> AsyncIterator[House]:
    """All of it, in an empty folder."""
    write_repository(folder / "repository", [_sleeper(name) for name in MODELS])
    wrong = folder / "repository" / "misfit__vae_decoder" / "1" / "model.py"
    wrong.write_text(wrong.read_text().replace("PIXELS = 64", "PIXELS = 32"))
    state = StateDir(folder / "state")
    state.create()
    options = StackOptions(
        DEVICES, DEVICE_BYTES, require_keys=False, repository=folder / "repository"
    )
    parts = build(state, options)
    endpoints = {name: free_address() for name in LISTENS}
    async with AsyncExitStack() as stack:
        more = {VARIABLE: fault.agent} if fault.agent else {}
        if fault.second_store:
            second = stack.enter_context(S3Server(folder / "second", "key", "secret"))
            more |= {
                "ATELIER_S3_SECONDARY_ENDPOINT": second.address,
                "ATELIER_S3_SECONDARY_ACCESS_KEY": "key",
                "ATELIER_S3_SECONDARY_SECRET_KEY": "secret",
            }
        for part in parts.parts:
            if isinstance(part, Room):
                listen = {LISTENS[part.name]: endpoints[part.name]}
                part.settings = {**part.settings, **listen, **more}
        supervisor = Supervisor(parts.parts, state.logs, Hooks(notice=print))
        [postgres] = [part for part in parts.parts if isinstance(part, Postgres)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(parts.gateway))
        built = House(supervisor, postgres, endpoints, channel)
        try:
            await supervisor.start()
            yield built
        finally:
            for pid in built.frozen:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            supervisor.hurry = True
            await supervisor.stop()


def _sleeper(name: str) -> Sleeper:
    return Sleeper(
        name, resident_bytes=1_000_000_000, activation_bytes=50_000_000, load_seconds=1.5,
        step_a=0.01, step_c=0.005, batch_cap=4,
    )  # fmt: skip
