"""A leader whom the database does not answer, though gateways and agents still reach it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from atelier.generation import State
from atelier.translate import generation_to
from atelier.v1 import scheduler_pb2 as pb
from tests.simulated.device import SimTriton
from tests.simulated.loop import Process, VirtualLoop
from tests.simulated.network import ask
from tests.simulated.parts import agent_keeper, edges, scheduler_keeper
from tests.simulated.schedule import bury
from tests.simulated.world import World
from tests.support.generations import SPEC, generation

FAIL_OVER_SECONDS = 5.0


def simulated(story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """In a world without chance faults; in virtual time."""
    loop = VirtualLoop()
    world = World(loop, 1)

    async def whole() -> None:
        try:
            await story(world)
        finally:
            await bury(world, [])

    with edges(loop):
        loop.run_until_complete(whole())
    loop.close()
    assert not world.broken


async def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.1)


async def serving(world: World) -> Process:
    """Who serves, as soon as one does."""
    await until(lambda: world.servers)
    (process,) = world.servers
    return process


async def submitted(world: World, caller: Process, steps: int = 4) -> str:
    g = generation(model="a", spec=replace(SPEC, steps=steps))
    request = pb.SubmitGenerationRequest(generation=generation_to(g), request_hash=b"h")
    asking = caller.start(ask(world, "SubmitGeneration", request))
    answer: pb.SubmitGenerationResponse = await asking
    return answer.generation.id


def as_it_is(world: World, generation_id: str) -> tuple[str, int]:
    row = world.tables.generations[generation_id]
    return row["state"], row["attempt"]


def test_who_is_cut_off_serves_nobody_and_another_leads() -> None:
    async def story(world: World) -> None:
        for number in range(2):
            scheduler_keeper(world, number)
        agent_keeper(world, "n0", [SimTriton(world, "n0d0", 400)])
        caller, leader = world.process("caller"), await serving(world)
        runs = await submitted(world, caller, steps=100)  # ten seconds
        await until(lambda: as_it_is(world, runs) == (State.RUNNING, 1))
        world.cut_off.add(leader)
        await asyncio.sleep(FAIL_OVER_SECONDS)
        assert leader.alive and not leader.frozen
        assert await serving(world) is not leader
        another = await submitted(world, caller)
        done = State.SUCCEEDED, 1  # adopted, not begun again
        await until(lambda: as_it_is(world, runs) == as_it_is(world, another) == done)

    simulated(story)


def test_while_nobody_reaches_the_database_nothing_is_let_go() -> None:
    async def story(world: World) -> None:
        scheduler_keeper(world, 0, agent_grace_seconds=4.0)
        agent_keeper(world, "n0", [SimTriton(world, "n0d0", 400)])
        caller, leader = world.process("caller"), await serving(world)
        runs = await submitted(world, caller, steps=200)  # twenty seconds
        await until(lambda: as_it_is(world, runs) == (State.RUNNING, 1))
        world.cut_off.add(leader)
        await asyncio.sleep(12.0)  # longer than agents that stay away are waited for
        assert not world.servers
        assert "n0d0" in leader.parts["live"].sched.devices
        world.cut_off.discard(leader)
        await asyncio.sleep(FAIL_OVER_SECONDS)
        assert await serving(world) is leader and world.tables.epoch == 1
        await until(lambda: as_it_is(world, runs) == (State.SUCCEEDED, 1))

    simulated(story)
