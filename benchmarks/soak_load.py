"""A mixed load without end: callers that draw, film, watch, cancel, look, write presets, and a
receiver of webhooks that fails now and then."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from uuid import uuid4

import grpc

from atelier.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2_grpc,
    preset_pb2,
    preset_pb2_grpc,
    webhook_pb2,
    webhook_pb2_grpc,
)
from atelier.v1 import generation_pb2 as pb
from benchmarks.mixed_wishes import wishes

CALLERS, CALL_SECONDS, END_SECONDS = 6, 30.0, 300.0
STEPS = (4, 8)
CANCELLED, LEFT, TOLD, BY_PRESET = 0.1, 0.2, 0.3, 0.2  # shares of generations
REFUSED = 20  # of so many posts the receiver takes one not
PAUSE_SECONDS = 0.5  # between two looks, and two writes of a preset
AT_ONCE = 64  # of those that are asked for and cancelled
FINAL = (
    pb.GENERATION_STATE_SUCCEEDED, pb.GENERATION_STATE_FAILED,
    pb.GENERATION_STATE_CANCELLED, pb.GENERATION_STATE_EXPIRED,
)  # fmt: skip


class Load:
    """Callers of one gateway; `did`: how often what was done, by its name."""

    def __init__(self, channel: grpc.aio.Channel, seed: int) -> None:
        self.did: Counter[str] = Counter()
        self._rng = Random(seed)
        self._wishes = wishes(10**9, seed, STEPS)
        self._door = generation_pb2_grpc.GenerationServiceStub(channel)
        self._presets = preset_pb2_grpc.PresetServiceStub(channel)
        self._fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        self._hooks = webhook_pb2_grpc.WebhookServiceStub(channel)

    async def fill(self, count: int) -> None:
        """So many that are cancelled at once: what the parts keep of the latest is full then, and
        stands."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with room:
                image = pb.ImageSpec(prompt="a red circle on a blue background", steps=4)
                request = pb.CreateGenerationRequest(model="tiny-image", image=image)
                made = await self._door.CreateGeneration(request, timeout=CALL_SECONDS)
                cancel = pb.CancelGenerationRequest(id=made.generation.id)
                await self._door.CancelGeneration(cancel, timeout=CALL_SECONDS)
            self.did["filled"] += 1

        for numbers in _batches(range(count), 1_000):
            await asyncio.gather(*map(one, numbers))

    async def run(self) -> None:
        """Until cancelled. What goes wrong is counted, and the caller goes on."""
        async with receiver() as url, asyncio.TaskGroup() as group:
            hook = webhook_pb2.CreateWebhookRequest(url=f"{url}all")
            await self._hooks.CreateWebhook(hook, timeout=CALL_SECONDS)
            for _ in range(CALLERS):
                group.create_task(self._again("generation", lambda: self._draw(url)))
            group.create_task(self._again("look", self._look, PAUSE_SECONDS))
            group.create_task(self._again("preset", self._write_preset, PAUSE_SECONDS))
            group.create_task(self._again("fleet watcher", self._watch_fleet))

    async def _again(
        self, name: str, turn: Callable[[], Awaitable[None]], pause_seconds: float = 0
    ) -> None:
        while True:
            try:
                await turn()
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "TIMEOUT"
                self.did[f"error {code} of a {name}"] += 1
                await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.sleep(pause_seconds)

    async def _draw(self, url: str) -> None:
        """One generation, watched to its end, or left, or cancelled."""
        rng, request = self._rng, next(self._wishes).request
        request.request_id = str(uuid4())
        if rng.random() < TOLD:
            request.webhook_url = f"{url}one"
        if request.model == "tiny-image" and rng.random() < BY_PRESET:
            request.preset = "draft"
        made = await self._door.CreateGeneration(request, timeout=CALL_SECONDS)
        watch = self._door.WatchGeneration(
            pb.WatchGenerationRequest(id=made.generation.id, inline_results=True),
            timeout=END_SECONDS,
        )
        leaves, cancels = rng.random() < LEFT, rng.random() < CANCELLED
        async for view in watch:
            if cancels:
                cancel = pb.CancelGenerationRequest(id=made.generation.id)
                await self._door.CancelGeneration(cancel, timeout=CALL_SECONDS)
                cancels = False
            elif leaves:
                watch.cancel()
                self.did["left"] += 1
                return await self._until_ended(made.generation.id)
            if view.generation.state in FINAL:
                self._count(view.generation)
        return None

    async def _until_ended(self, generation_id: str) -> None:
        request = pb.GetGenerationRequest(id=generation_id)
        async with asyncio.timeout(END_SECONDS):
            while True:
                answer = await self._door.GetGeneration(request, timeout=CALL_SECONDS)
                if answer.generation.state in FINAL:
                    return self._count(answer.generation)
                await asyncio.sleep(PAUSE_SECONDS)

    def _count(self, generation: pb.Generation) -> None:
        self.did[pb.GenerationState.Name(generation.state).rpartition("_")[2].lower()] += 1

    async def _look(self) -> None:
        listing = pb.ListGenerationsRequest(page_size=20)
        await self._door.ListGenerations(listing, timeout=CALL_SECONDS)
        request = webhook_pb2.ListDeliveriesRequest(page_size=20)
        await self._hooks.ListDeliveries(request, timeout=CALL_SECONDS)
        self.did["looks"] += 1

    async def _write_preset(self) -> None:
        preset = preset_pb2.Preset(model="tiny-image", name="soak", image=pb.ImageSpec(steps=6))
        create = preset_pb2.CreatePresetRequest(preset=preset)
        await self._presets.CreatePreset(create, timeout=CALL_SECONDS)
        delete = preset_pb2.DeletePresetRequest(model="tiny-image", name="soak")
        await self._presets.DeletePreset(delete, timeout=CALL_SECONDS)
        self.did["presets"] += 1

    async def _watch_fleet(self) -> None:
        """A few views, then another watcher comes."""
        watch = self._fleet.WatchFleet(fleet_pb2.WatchFleetRequest(), timeout=CALL_SECONDS)
        seen = 0
        async for _ in watch:
            seen += 1
            if seen == 5:
                watch.cancel()
                break
        self.did["fleet watchers"] += 1


@asynccontextmanager
async def receiver() -> AsyncIterator[str]:
    """Takes every post but one of REFUSED; its URL."""
    numbers = itertools.count(1)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0])
            await reader.readexactly(length)
            status = "503 Away" if next(numbers) % REFUSED == 0 else "204 Taken"
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the caller has had enough
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


def _batches(numbers: range, size: int) -> list[range]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
