"""An agent's inside, over fakes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agent.commands import Commands
from agent.device import Device
from agent.inputs import Inputs
from agent.outbox import Outbox
from agent.results import Results
from atelier.catalog import Catalog, ModelCard
from atelier.config import DeviceSettings
from atelier.v1 import agent_pb2 as pb
from tests.support.cards import toy_card
from tests.unit.agent.fakes import DictStore, FakeTriton, Ticks


class FakeTokenizer:
    """A text's length, as its ids."""

    def encode(self, *texts: str) -> Any:
        return np.array([[len(text)] * 32 for text in texts], dtype=np.int64)


@dataclass
class Inside:
    """One device, its fakes, and what was told."""

    triton: FakeTriton
    store: DictStore
    device: Device
    outbox: Outbox
    commands: Commands
    heard: list[pb.ConnectRequest] = field(default_factory=list)

    def collect(self) -> list[pb.ConnectRequest]:
        """Everything that waits in the outbox, taken out; also kept in `heard`."""
        waiting = list(self.outbox._messages.values())
        self.outbox._messages.clear()
        self.heard += waiting
        return waiting

    async def until(self, kind: str) -> Any:
        """The next message of a kind that is told."""
        async with asyncio.timeout(5):
            while True:
                message = await self.outbox.get()
                self.heard.append(message)
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)

    async def settle_down(self) -> None:
        """Let every task go on until none can."""
        for _ in range(200):
            await asyncio.sleep(0)


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with an_inside(toy_card()) as made:
        yield made


@asynccontextmanager
async def an_inside(
    card: ModelCard, triton: Any = None, tokenizer: Any = None
) -> AsyncIterator[Inside]:
    """One device that serves `card`; with fakes where nothing else is given."""
    triton, store = triton or FakeTriton(), DictStore()
    results, inputs = Results(store), Inputs(store)
    triton.loaded = set(card.components.triton_models)
    device = Device(
        DeviceSettings(id="cpu-0", triton_address="127.0.0.1:1", capacity_bytes=1000),
        Catalog({card.name: card}),
        triton,
        results,
        inputs=inputs,
        tokenizers={card.name: tokenizer or FakeTokenizer()},  # type: ignore[dict-item]
        clock=Ticks(),
        tell=lambda told: commands.tell(told),
    )
    outbox = Outbox()
    commands = Commands({device.id: device}, outbox)
    loop = asyncio.create_task(device.run_loop())
    yield Inside(triton, store, device, outbox, commands)
    await commands.close()
    inputs.close()
    results.close()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


@pytest.fixture
def run_message() -> Iterator[Callable[..., pb.ConnectResponse]]:
    """Makes Run commands, of another generation each time unless told otherwise."""
    ids = (f"gen-{number}" for number in itertools.count(1))

    def make(
        generation_id: str | None = None,
        *,
        token: int = 1,
        epoch: int = 1,
        device_id: str = "cpu-0",
        model: str = "toy",
        video: bool = False,
        **image: Any,
    ) -> pb.ConnectResponse:
        run = pb.RunGeneration(
            attempt=pb.Attempt(
                generation_id=generation_id or next(ids), lease_token=token, device_id=device_id
            ),
            epoch=epoch,
        )
        generation = run.generation
        generation.id, generation.tenant = run.attempt.generation_id, "local"
        generation.model = model
        if video:
            generation.video.prompt = "a film"
            return pb.ConnectResponse(run=run)
        values: dict[str, Any] = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 3}
        values |= {"guidance": 1.5, "seed": 7, "count": 1, "sampler": "ddim"}
        for name, value in (values | image).items():
            if name in ("init_image", "mask_image"):  # by their keys
                getattr(generation.image, name).object_key = value
            else:
                setattr(generation.image, name, value)
        return pb.ConnectResponse(run=run)

    yield make
