"""One schedule: some seconds of work under faults, then all is healed, then what must hold is
checked."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from tests.simulated.clients import Client, History
from tests.simulated.device import SimTriton
from tests.simulated.loop import PROCESS, VirtualLoop
from tests.simulated.nemesis import Nemesis
from tests.simulated.parts import agent_keeper, edges, scheduler_keeper
from tests.simulated.promises import broken, left_over, on_devices
from tests.simulated.world import World

DRAIN_SECONDS = 1_200.0  # of virtual time, in which all must have ended: probes wait two minutes
QUIET_SECONDS = 15.0  # for so long nothing may be left over: what follows an end has come
# Errors that faults explain; any other is a finding.
_EXPECTED = {
    "submits not stored", "load failed", "device not believed",
}  # fmt: skip


@dataclass
class Ended:
    """How a schedule ended. `digest`: of all that happened."""

    seed: int
    broken: list[str]
    faults: Counter[str]
    generations: int
    writes_refused: int
    steps: int
    digest: str


def run(seed: int, *, trace: bool = False) -> Ended:
    """Run the schedule of that seed. `trace`: print all that happens."""
    loop = VirtualLoop()
    world = World(loop, seed)
    gc.collect()
    gc.disable()
    try:
        with _logs(world, trace), edges(loop):
            return loop.run_until_complete(_schedule(world, seed))
    finally:
        gc.enable()
        loop.close()


async def _schedule(world: World, seed: int) -> Ended:
    rng, loop = world.rng, world.loop
    loop.set_exception_handler(lambda _, context: world.broken.append(f"loop: {_told(context)}"))
    tritons: list[SimTriton] = []
    schedulers = [scheduler_keeper(world, i) for i in range(rng.randint(1, 3))]
    agents = []
    for n in range(rng.randint(1, 3)):
        own = [
            SimTriton(world, f"n{n}d{i}", rng.choice((160, 250, 400)))
            for i in range(rng.randint(1, 2))
        ]
        tritons += own
        agents.append(agent_keeper(world, f"n{n}", own))
    history, until = History(), rng.uniform(10.0, 40.0)
    clients = [Client(world, history, i, until) for i in range(rng.randint(1, 4))]
    operator = world.process("operator")
    nemesis = Nemesis(world, schedulers, agents, tritons, operator)
    keepers = [asyncio.create_task(k.run()) for k in (*schedulers, *agents)]
    asking = [client.process.start(client.run()) for client in clients]
    await nemesis.run(until)
    nemesis.heal()
    world.tell("healed")
    await nemesis.take_back_orders()
    done, waiting = await asyncio.wait(asking, timeout=DRAIN_SECONDS)
    found = [f"a caller failed: {task.exception()!r}" for task in done if task.exception()]
    found += ["P1: a caller waits for ever"] if waiting else []
    give_up, quiet_since = loop.now + DRAIN_SECONDS, loop.now
    while loop.now < min(give_up, quiet_since + QUIET_SECONDS):
        await asyncio.sleep(1.0)
        if list(left_over(world, schedulers, agents)):
            quiet_since = loop.now
    found += [*broken(world, history), *left_over(world, schedulers, agents), *on_devices(tritons)]
    digest = hashlib.sha256("\n".join(world.told).encode()).hexdigest()[:16]
    ended = Ended(seed, found, world.faults, len(world.tables.generations),
                  world.tables.refused, len(world.told), digest)  # fmt: skip
    await bury(world, keepers)
    return ended


async def bury(world: World, keepers: list[asyncio.Task[None]]) -> None:
    """End every task of every process, so that nothing of it meets the next schedule."""
    for task in keepers:
        task.cancel()
    if keepers:
        await asyncio.wait(keepers, timeout=10.0)
    for _ in range(5):
        left = [task for process in world.processes for task in process.bury()]
        if not left:
            return
        await asyncio.wait(left, timeout=10.0)


def _told(context: dict[str, Any]) -> str:
    return f"{context.get('message')} {context.get('exception')!r}"


@contextmanager
def _logs(world: World, trace: bool) -> Iterator[None]:
    """Errors of the product are findings."""

    def hear(_: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        process = PROCESS.get()
        name = process.name if process else "-"
        if trace:
            sys.stdout.write(f"{world.loop.now:10.4f} {name:4} {level:8} {dict(event)}\n")
        unexpected = event["event"] not in _EXPECTED
        if level in ("error", "critical") and unexpected and not (process and process.buried):
            world.broken.append(f"{name} logged: {dict(event)}")
        raise structlog.DropEvent

    before = structlog.get_config()
    least = 10 if trace else 40
    structlog.configure(
        processors=[hear], wrapper_class=structlog.make_filtering_bound_logger(least),
        cache_logger_on_first_use=False,
    )  # fmt: skip
    if trace:
        world.tell = lambda what: sys.stdout.write(f"{world.loop.now:10.4f} {what}\n")  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        structlog.configure(**before)
