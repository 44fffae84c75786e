"""Callers of the gateway: they create, send again, cancel and look, and write down what they are
told. Each does one thing after another; what fails in passing is sent again with the same key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import grpc

from atelier.generation import FINAL
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc
from tests.faults.history import FAIL, INVOKE, OK, UNKNOWN, History
from tests.faults.stack import MODELS

CALL_SECONDS, PAUSE_SECONDS, PATIENCE_SECONDS = 10.0, 0.3, 120.0
RARE, CANCELLED, TWICE, OTHER = 0.02, 0.08, 0.1, 0.03  # shares of generations
STEPS = 6
# Between two generations of a caller: devices must have time left. Where they have none, what
# waited through an outage is late, and what is late is served after what can be in time.
CALM_SECONDS = (0.3, 1.5)
_PASSING = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
# It was refused before anything was done; all else that passes may have happened.
_REFUSED = {grpc.StatusCode.RESOURCE_EXHAUSTED}


class GivenUpError(Exception):
    """A call did not pass for as long as any client would send it again."""


class Client:
    """One caller, with a key for each generation."""

    def __init__(self, name: str, channel: grpc.aio.Channel, history: History, rng: Random) -> None:
        self.name = name
        self._door = generation_pb2_grpc.GenerationServiceStub(channel)
        self._history = history
        self._rng = rng
        self._number = 0
        self.retried = 0

    async def run(self, stop: asyncio.Event) -> None:
        """One generation after another, until told to stop."""
        while not stop.is_set():
            await self.one()
            await asyncio.sleep(self._rng.uniform(*CALM_SECONDS))

    async def one(self) -> pb.Generation:
        """A generation, from the first call to its end."""
        rng, request = self._rng, self._request(MODELS[self._rng.random() < RARE])
        made = await self._create(request)
        if rng.random() < TWICE:
            await self._create(request)
        if rng.random() < OTHER:
            await self._other(request)
        if rng.random() < CANCELLED:
            await asyncio.sleep(rng.uniform(0, 0.5))
            await self._told("cancel", request.request_id, self._cancel, made.id)
        return await self.end(made)

    async def create(self, model: str, steps: int = STEPS) -> pb.Generation:
        """One that is asked for, and no more."""
        return await self._create(self._request(model, steps))

    async def end(self, made: pb.Generation) -> pb.Generation:
        """The generation at its end."""
        key = made.request_id
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = await self._told("get", key, self._get, made.id)
                if _state(found) in FINAL:
                    return found
                await asyncio.sleep(0.2)

    def _request(self, model: str, steps: int = STEPS) -> pb.CreateGenerationRequest:
        self._number += 1
        image = pb.ImageSpec(prompt="sleep", steps=steps, guidance=1.0, seed=self._number)
        key = f"{self.name}-{self._number}"
        return pb.CreateGenerationRequest(request_id=key, model=model, image=image)

    async def _create(self, request: pb.CreateGenerationRequest) -> pb.Generation:
        async def create(_: str) -> pb.Generation:
            answer = await self._door.CreateGeneration(request, timeout=CALL_SECONDS)
            return _generation(answer)

        return await self._told("create", request.request_id, create, "")

    async def _other(self, request: pb.CreateGenerationRequest) -> None:
        """The same key with another body must be refused."""
        other = pb.CreateGenerationRequest()
        other.CopyFrom(request)
        other.image.seed += 1_000_000
        try:
            await self._door.CreateGeneration(other, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.ALREADY_EXISTS, *_PASSING}:
                return
            raise
        raise AssertionError(f"{request.request_id} was taken with another body")

    async def _cancel(self, name: str) -> pb.Generation:
        request = pb.CancelGenerationRequest(id=name)
        return _generation(await self._door.CancelGeneration(request, timeout=CALL_SECONDS))

    async def _get(self, name: str) -> pb.Generation:
        request = pb.GetGenerationRequest(id=name)
        return _generation(await self._door.GetGeneration(request, timeout=CALL_SECONDS))

    async def _told(
        self, call: str, key: str, do: Callable[[str], Awaitable[pb.Generation]], name: str
    ) -> pb.Generation:
        """The answer to a call, sent again while it fails in passing."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + PATIENCE_SECONDS
        while True:
            self._history.add(self.name, call, INVOKE, key=key, id=name)
            try:
                found = await do(name)
            except grpc.aio.AioRpcError as error:
                code = error.code()
                known = code not in _PASSING or code in _REFUSED
                self._history.add(
                    self.name, call, FAIL if known else UNKNOWN, key=key, id=name, code=code.name
                )
                if code not in _PASSING:
                    raise
                if loop.time() > give_up:
                    raise GivenUpError(f"{call} {key}: {code.name} {error.details()}") from error
                self.retried += 1
                await asyncio.sleep(self._rng.uniform(0.5, 1.5) * PAUSE_SECONDS)
                continue
            self._history.add(
                self.name, call, OK, key=key, id=found.id, state=_state(found),
                result_keys=tuple(result.object_key for result in found.results),
            )  # fmt: skip
            return found


_Answer = pb.CreateGenerationResponse | pb.CancelGenerationResponse | pb.GetGenerationResponse


def _generation(answer: _Answer) -> pb.Generation:
    found: pb.Generation = answer.generation
    return found


def _state(generation: pb.Generation) -> str:
    return pb.GenerationState.Name(generation.state).removeprefix("GENERATION_STATE_")
