"""Ways of bringing the steps of several generations to one device. The product's is a single Loops.

Each is made of the product's own step loop and Triton client, so they differ in nothing but in what
shares a call.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from agent.denoising import Denoising
from agent.step_loop import StepLoop
from agent.triton import Triton

WINDOW_SECONDS = 0.02  # that a batch of whole requests waits for more of them


class Way(Protocol):
    """Somewhere to denoise."""

    async def denoise(self, work: Denoising) -> None: ...


class Loops:
    """Generations spread over step loops, each to one with the fewest rows.

    One loop: all advance in lockstep, one call a step. Two: cohorts that alternate on the device,
    the host's work for one behind the device's for the other. As many as generations: each calls
    Triton by itself, and what is merged is merged there.
    """

    def __init__(self, loops: Sequence[StepLoop]) -> None:
        self._rows = dict.fromkeys(loops, 0)

    async def denoise(self, work: Denoising) -> None:
        loop = min(self._rows, key=lambda loop: self._rows[loop])
        self._rows[loop] += work.rows
        try:
            await loop.denoise(work)
        finally:
            self._rows[loop] -= work.rows


class Seats:
    """At most `seats` generations at once, the next as soon as one ends: what the scheduler does,
    which binds to a device no more rows than a batch may have."""

    def __init__(self, way: Way, seats: int) -> None:
        self._way = way
        self._free = asyncio.Semaphore(seats)

    async def denoise(self, work: Denoising) -> None:
        async with self._free:
            await self._way.denoise(work)


class Requests:
    """Batches of whole requests: at most `seats` begin together, and the next when all have ended.

    padded: every row goes on until the last is done, as where a batch is one call of a pipeline.
    Else who has ended leaves its batch, and its row costs no more: as good as such batches can be.
    """

    def __init__(self, way: Way, seats: int, *, padded: bool = False) -> None:
        self._way = way
        self._seats = seats
        self._padded = padded
        self._waiting: deque[tuple[Denoising, asyncio.Future[None]]] = deque()
        self._came = asyncio.Event()

    async def denoise(self, work: Denoising) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        self._came.set()
        await done

    async def run(self) -> None:
        """Make batches, for ever."""
        while True:
            self._came.clear()
            if not self._waiting:
                await self._came.wait()
            if len(self._waiting) < self._seats:
                await asyncio.sleep(WINDOW_SECONDS)
            batch = [self._waiting.popleft() for _ in range(min(self._seats, len(self._waiting)))]
            if self._padded:
                longest = max((work.plan for work, _ in batch), key=lambda plan: plan.steps)
                for work, _ in batch:
                    work.plan = longest
            async with asyncio.TaskGroup() as group:
                for work, done in batch:
                    group.create_task(self._one(work, done))

    async def _one(self, work: Denoising, done: asyncio.Future[None]) -> None:
        await self._way.denoise(work)
        done.set_result(None)


@asynccontextmanager
async def loops(address: str, key: str, count: int) -> AsyncIterator[Loops]:
    """`count` step loops that run, each with a client and shared memory of its own."""
    clients = [Triton(address, key) for _ in range(count)]
    made = [StepLoop(client, time.perf_counter) for client in clients]
    for client in clients:
        client._shared._swept = True  # else each would unmap what the others share
    async with AsyncExitStack() as stack:
        for client in clients:
            stack.push_async_callback(client.close)
        running = [asyncio.create_task(loop.run()) for loop in made]
        stack.push_async_callback(ended, running)
        yield Loops(made)


@asynccontextmanager
async def requests(way: Way, seats: int, *, padded: bool) -> AsyncIterator[Requests]:
    """Batches of whole requests, made as long as this is entered."""
    made = Requests(way, seats, padded=padded)
    running = asyncio.create_task(made.run())
    yield made
    await ended([running])


async def ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel them and wait."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
