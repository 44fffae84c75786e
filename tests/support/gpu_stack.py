"""The whole embedded stack, with GPUs of the fake driver and toy models that hold their memory.

Everything is real but the GPU: Triton's processes, their loads and unloads, the agent's driver
library, the scheduler, the gateway. A device that is "frozen", "lost" or "leaks" is so at the
boundary to the kernel or the driver, as a real one is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from atelier.embedded.part import Command, Part
from atelier.embedded.rooms import Agent
from atelier.embedded.stack import Stack, StackOptions, build
from atelier.embedded.state import StateDir
from atelier.embedded.supervisor import Hooks, Supervisor
from atelier.embedded.triton import Triton
from atelier.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2, generation_pb2_grpc
from tests.integration.toy_model import SLOW, write_repository
from tests.support.cards import CARD
from tests.support.fake_nvml import control
from tests.support.fake_nvml.build import compile_driver
from tests.support.fake_nvml.control import FakeDriver

GIB = 1 << 30
HOLDS = {"text_encoder": 1 * GIB, "denoiser": 4 * GIB, "vae_decoder": 1 * GIB}
DECLARED = 4 * GIB  # by the card, which is wrong by a half
FINAL = {
    generation_pb2.GENERATION_STATE_SUCCEEDED,
    generation_pb2.GENERATION_STATE_FAILED,
    generation_pb2.GENERATION_STATE_CANCELLED,
    generation_pb2.GENERATION_STATE_EXPIRED,
}


class GpuTriton(Triton):
    """A Triton whose models take memory of a fake GPU."""

    driver: Path

    def command(self) -> Command:
        command = super().command()
        fake = {
            "FAKE_NVML": str(self.driver),
            "FAKE_NVML_CONTROL": control.__file__,
            "FAKE_GPU": str(self.index),
        }
        return replace(command, environment={**command.environment, **fake})


class GpuStack:
    """A running stack, and what a test does with it."""

    def __init__(
        self, stack: Stack, supervisor: Supervisor, driver: FakeDriver, root: Path
    ) -> None:
        self.driver = driver
        self.supervisor = supervisor
        self._root = root
        self._channel = grpc.aio.insecure_channel(stack.gateway)
        self.generations = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    def log(self, part: str) -> str:
        return (self._root / "logs" / f"{part}.log").read_text()

    def restarts(self, part: str) -> int:
        return self.supervisor.keepers[part].restarts

    def signal(self, part: str, number: signal.Signals) -> None:
        """To all processes of a part."""
        pid = self.supervisor.keepers[part].record().pid
        assert pid
        os.killpg(pid, number)

    async def device(self, index: int) -> fleet_pb2.Device:
        answer = await self.fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=20)
        found: fleet_pb2.Device = next(d for d in answer.devices if d.id == f"gpu-{index}")
        return found

    async def create(self, model: str = "red", steps: int = 40) -> str:
        """A generation that takes 0.05 s a step."""
        spec = generation_pb2.ImageSpec(prompt="red circle", guidance=SLOW, steps=steps)
        request = generation_pb2.CreateGenerationRequest(model=model, image=spec)
        answer = await self.generations.CreateGeneration(request, timeout=20)
        return str(answer.generation.id)

    async def get(self, generation_id: str) -> generation_pb2.Generation:
        request = generation_pb2.GetGenerationRequest(id=generation_id)
        answer = await self.generations.GetGeneration(request, timeout=20)
        found: generation_pb2.Generation = answer.generation
        return found

    async def ended(self, generation_id: str) -> generation_pb2.Generation:
        async def is_over() -> bool:
            return (await self.get(generation_id)).state in FINAL

        await self.until(is_over)
        return await self.get(generation_id)

    async def load(self, model: str, index: int) -> None:
        """Have a model on a device, and see it there."""
        request = fleet_pb2.LoadModelRequest(model=model, device_id=f"gpu-{index}")
        await self.fleet.LoadModel(request, timeout=20)

        async def is_there() -> bool:
            return model in (await self.device(index)).resident_models

        await self.until(is_there)

    async def unload(self, model: str, index: int) -> None:
        """Order a model away."""
        request = fleet_pb2.UnloadModelRequest(model=model, device_id=f"gpu-{index}")
        await self.fleet.UnloadModel(request, timeout=20)

    async def is_ready(self, index: int) -> bool:
        return (await self.device(index)).state == fleet_pb2.DEVICE_STATE_READY

    async def until(self, holds: Callable[[], Any], seconds: float = 90.0) -> None:
        """Wait for something that is asked for."""
        try:
            async with asyncio.timeout(seconds):
                while not await holds():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.1)
        except TimeoutError:
            tail = self.log("scheduler")[-6000:] + self.log("agent")[-3000:]
            raise AssertionError(f"it does not come to be: {holds}\n{tail}") from None


@asynccontextmanager
async def gpu_stack(folder: Path, devices: int = 2) -> AsyncIterator[GpuStack]:
    """A stack in `folder`, of so many GPUs of 24 GiB with 300 MiB in use."""
    driver = FakeDriver(folder / "driver", gpus=8)
    (folder / "library").mkdir()
    environment = compile_driver(folder / "library") | {"FAKE_NVML": str(driver.path)}
    for name in ("red", "blue"):
        write_repository(folder / "models", _card(name), name, HOLDS)
    state = StateDir(folder / "state")
    state.create()
    options = StackOptions(devices=devices, repository=folder / "models")
    stack = build(state, options)
    parts = tuple(_with_gpus(part, driver.path, environment) for part in stack.parts)
    supervisor = Supervisor(parts, state.logs, Hooks())
    running = GpuStack(stack, supervisor, driver, state.root)
    try:
        await supervisor.start()
        yield running
    finally:
        await running.close()
        await supervisor.stop()


def _card(name: str) -> str:
    """Every model has red's text encoder."""
    text = CARD.replace("toy", name).replace(f"{name}__text", "red__text")
    text = text.replace("resident_bytes = 100", f"resident_bytes = {DECLARED}")
    text = text.replace("load_seconds = 2.0", "load_seconds = 3.0")
    owners = {"text_encoder": "red", "denoiser": name, "vae_decoder": name}
    parts = "".join(
        f"{owner}__{part} = {int(HOLDS[part] * DECLARED / sum(HOLDS.values()))}\n"
        for part, owner in owners.items()
    )
    return f"{text}\n[weights]\n{parts}"


def _with_gpus(part: Part, driver: Path, environment: dict[str, str]) -> Part:
    if isinstance(part, Triton):
        told = GpuTriton(
            part.index, part.folder, part.repository, part.port, part.admin_key, part.threads
        )
        told.driver = driver
        return told
    if isinstance(part, Agent):
        devices = json.loads(part.settings["ATELIER_DEVICES"])
        for index, device in enumerate(devices):
            device |= {"id": f"gpu-{index}", "gpu": str(index), "capacity_bytes": 24 * GIB}
        settings = {
            **part.settings,
            **environment,
            "ATELIER_DEVICES": json.dumps(devices),
            "ATELIER_HOST_MEMORY_BYTES": str(64 * GIB),  # the files are small, whatever they say
        }
        return replace(part, settings=settings, devices=tuple(d["id"] for d in devices))
    return part
