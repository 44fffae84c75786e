"""What metrics cost where it matters: calls, statements and steps with and without, side by side.

`make bench-metrics`: prints a table. CPU time, not the clock's; rounds with and without take
turns in one process, so that what else the machine does meets both.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast

import grpc

from agent.steps import Steps
from atelier.generation import Generation, State
from atelier.metrics import exported
from atelier.service import serving
from scheduler.measures import Measures, Names
from tests.support.generations import generation
from tests.support.ports import free_address

ROUNDS, CALLS, MANY = 15, 300, 2_000


async def calls(stack: AsyncExitStack, meter: Any) -> Callable[[], Awaitable[float]]:
    """CPU microseconds a unary call, caller's and server's together."""

    async def echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        return request

    address = free_address()
    methods = {"Echo": grpc.unary_unary_rpc_method_handler(echo, bytes)}
    handlers = grpc.method_handlers_generic_handler("bench.Toy", methods)
    await stack.enter_async_context(
        serving(address, [], lambda s: s.add_generic_rpc_handlers((handlers,)), meter=meter)
    )
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
    ask = channel.unary_unary("/bench.Toy/Echo")

    async def once() -> float:
        began = time.process_time()
        for _ in range(CALLS):
            await ask(b"x")
        return (time.process_time() - began) / CALLS * 1e6

    return once


async def main() -> None:
    async with AsyncExitStack() as stack:
        meter = stack.enter_context(exported("bench", free_address()))
        ways = {"without": await calls(stack, None), "with": await calls(stack, meter)}
        took: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            for name in sorted(ways, reverse=bool(number % 2)):
                took[name].append(await ways[name]())
        plain, told = (statistics.median(took[name]) for name in ("without", "with"))
        say(f"unary call: {plain:.0f} us without, {told:.0f} us with: {told / plain:.3f}")

        live = cast(Any, SimpleNamespace(sched=SimpleNamespace(models={})))
        measures, steps = Measures(meter, live, Names(), clock=time.process_time), Steps(meter)
        lives = [life(generation()) for _ in range(MANY)]
        began = time.process_time()
        for states in lives:
            for row in states:
                measures.stood(row)
        say(f"a generation's three states: {(time.process_time() - began) / MANY * 1e6:.1f} us")
        began = time.process_time()
        for _ in range(MANY):
            steps.record("tiny-image", "64x64", 4, 0.01)
        say(f"a denoiser call: {(time.process_time() - began) / MANY * 1e6:.1f} us")


def life(row: Generation) -> list[Generation]:
    """Queued, running, succeeded."""
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    began = {**values, "attempt": 1, "start_time": row.create_time}
    return [
        row,
        Generation(**{**began, "state": State.RUNNING}),
        Generation(**{**began, "state": State.SUCCEEDED, "finish_time": row.create_time}),
    ]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    asyncio.run(main())
