"""Callers: they submit, send again, cancel and watch, and write down what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import grpc

from atelier.generation import FINAL, Generation, Priority, State, new_id
from atelier.spec import ImageSpec
from atelier.translate import generation_to, state_from
from atelier.v1 import generation_pb2
from atelier.v1 import scheduler_pb2 as pb
from tests.simulated.device import BAD, POISON
from tests.simulated.loop import Process
from tests.simulated.network import ask, dial
from tests.simulated.world import World

TENANTS = ("t0", "t1", "t2")
_AGAIN = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED,
}  # fmt: skip


@dataclass
class History:
    """What callers were told, for `promises`: ids by key, cancels with their time, sights."""

    acknowledged: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    cancels: list[tuple[str, float, State]] = field(default_factory=list)
    seen: dict[str, list[list[tuple[State, int]]]] = field(default_factory=dict)  # by watcher
    wrong: list[str] = field(default_factory=list)


class Client:
    """One caller. `run` ends when it has done what it wanted; `hurry` makes it stop asking."""

    def __init__(self, world: World, history: History, number: int, until: float) -> None:
        self.world, self.history = world, history
        self.process: Process = world.process(f"c{number}")
        self._number, self._until = number, until
        self._made = 0
        self._others: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        rng = self.world.rng
        while self.world.loop.now < self._until:
            await asyncio.sleep(rng.expovariate(0.5))
            generation = self._wanted()
            rivals = 2 if rng.random() < 0.1 else 1  # the same key, sent twice at once
            self._others += [
                asyncio.create_task(self._live(generation, first=not i)) for i in range(rivals)
            ]
        await asyncio.gather(*self._others)

    def _wanted(self) -> Generation:
        rng, world = self.world.rng, self.world
        self._made += 1
        draw = rng.random()
        prompt = POISON if draw < 0.03 else BAD if draw < 0.06 else "a red circle"
        spec = ImageSpec(prompt, "", 64, 64, rng.choice((2, 4, 8, 30)), 1.5, 7,
                         rng.choice((1, 1, 2)), "ddim")  # fmt: skip
        deadline = None
        if rng.random() < 0.15:
            deadline = world.wall() + timedelta(seconds=rng.uniform(1.0, 40.0))
        return Generation(
            id=new_id(world.wall().timestamp(), rng.getrandbits(74)),
            tenant=rng.choice(TENANTS),
            model=rng.choice("aabbc"),
            spec=spec,
            create_time=world.wall(),
            priority=rng.choice(list(Priority)),
            deadline=deadline,
            request_id=f"{self._number}-{self._made}" if rng.random() < 0.9 else "",
            request_hash=b"first",
        )

    async def _live(self, wanted: Generation, *, first: bool) -> None:
        rng = self.world.rng
        stored = await self._submit(wanted)
        if stored is None:
            return
        key = wanted.tenant, wanted.request_id or wanted.id
        self.history.acknowledged.setdefault(key, set()).add(stored.id)
        if first and rng.random() < 0.25:
            await asyncio.sleep(rng.expovariate(0.5))
            await self._cancel(wanted.tenant, stored.id)
        if first and wanted.request_id and rng.random() < 0.1:
            await self._another_body(wanted)
        if first and wanted.request_id and rng.random() < 0.2:
            await self._again_later(wanted)
        if rng.random() < 0.7:
            await self._watch(wanted.tenant, stored.id)

    async def _submit(self, wanted: Generation) -> generation_pb2.Generation | None:
        """Sent until it is acknowledged, each time as the gateway would: with a new id."""
        rng, world = self.world.rng, self.world

        async def send() -> generation_pb2.Generation:
            again = wanted
            if wanted.request_id:
                fresh = new_id(world.wall().timestamp(), rng.getrandbits(74))
                again = replace(wanted, id=fresh)
            request = pb.SubmitGenerationRequest(
                generation=generation_to(again), request_hash=again.request_hash
            )
            answer = await ask(world, "SubmitGeneration", request)
            return answer.generation

        return await self._again(send, tries=200 if wanted.request_id else 1)

    async def _cancel(self, tenant: str, generation_id: str) -> None:
        async def send() -> generation_pb2.Generation:
            request = pb.StopGenerationRequest(tenant=tenant, id=generation_id)
            return (await ask(self.world, "StopGeneration", request)).generation

        if answer := await self._again(send, tries=200):
            told = generation_id, self.world.loop.now, _state(answer)
            self.history.cancels.append(told)

    async def _again_later(self, wanted: Generation) -> None:
        """As if the answer had been lost: whatever waits by now, it was accepted."""
        request = pb.SubmitGenerationRequest(
            generation=generation_to(wanted), request_hash=wanted.request_hash
        )
        try:
            answer = await ask(self.world, "SubmitGeneration", request)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _AGAIN - {grpc.StatusCode.RESOURCE_EXHAUSTED}:
                self.history.wrong.append(f"P2: a retry of {wanted.id}: {error.details()}")
            return
        key = wanted.tenant, wanted.request_id
        self.history.acknowledged[key].add(answer.generation.id)

    async def _another_body(self, wanted: Generation) -> None:
        other = replace(wanted, request_hash=b"other", spec=replace(wanted.spec, steps=3))
        request = pb.SubmitGenerationRequest(generation=generation_to(other), request_hash=b"other")
        try:
            answer = await ask(self.world, "SubmitGeneration", request)
            self.history.wrong.append(f"P2: {answer.generation.id} was given for another body")
        except grpc.aio.AioRpcError as error:
            if error.code() not in {*_AGAIN, grpc.StatusCode.ALREADY_EXISTS}:
                self.history.wrong.append(f"P2: another body: {error.code()}")

    async def _watch(self, tenant: str, generation_id: str) -> None:
        """All that is seen of it until it has ended, over as many streams as that takes."""
        request = pb.FollowGenerationRequest(tenant=tenant, id=generation_id)
        seen: list[tuple[State, int]] = []
        self.history.seen.setdefault(generation_id, []).append(seen)
        while not seen or seen[-1][0] not in FINAL:
            call = None
            try:
                call = dial(self.world, "FollowGeneration")
                await call.write(request)
                while (answer := await call.read()) is not grpc.aio.EOF:
                    seen.append((_state(answer.generation), answer.generation.attempt))
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    self.history.wrong.append(f"P5: a watch of {generation_id}: {error.details()}")
                    return
            finally:
                if call:
                    call.cancel()
            await asyncio.sleep(self.world.rng.uniform(0.1, 1.0))

    async def _again(
        self, send: Callable[[], Awaitable[generation_pb2.Generation]], tries: int
    ) -> generation_pb2.Generation | None:
        for _ in range(tries):
            try:
                return await send()
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    self.history.wrong.append(f"a call ended as {error.code()}: {error.details()}")
                    return None
            await asyncio.sleep(self.world.rng.uniform(0.1, 1.0))
        return None


def _state(message: generation_pb2.Generation) -> State:
    state = state_from(message.state)
    assert state
    return state
