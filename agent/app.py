"""Builds the agent, and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress

import structlog
from opentelemetry.metrics import Meter

from agent.checkpoint import Checkpoints
from agent.commands import Commands
from agent.device import Device
from agent.gpu import Gauge
from agent.host_memory import HostMemory, ModelFiles
from agent.inputs import Inputs
from agent.link import Link, scheduler_at
from agent.nvml import Nvml
from agent.outbox import Outbox
from agent.results import Results, Store
from agent.steps import Steps
from agent.text import PromptIds
from agent.triton import LIVE_SECONDS, Triton
from atelier.catalog import Catalog
from atelier.config import AgentSettings
from atelier.copy_back import CopyBack
from atelier.metrics import is_scraped
from atelier.stores import Stores
from atelier.tls import peers_of

log = structlog.get_logger()

START_SECONDS = 60.0  # Triton's; after that the agent connects and reports it as unhealthy


class CannotStartError(Exception):
    """What the settings name is not as it should be; the message says where."""


async def serve(
    settings: AgentSettings,
    stop: asyncio.Event,
    store: Store | None = None,
    meter: Meter | None = None,
) -> None:
    """Be the agent until `stop` is set.

    Args:
        store: where results go instead of the object store that the settings name.
        meter: what is measured goes there.

    Raises:
        CannotStartError: the model repository is wrong.
    """
    try:
        catalog = Catalog.read(settings.model_repository)
        tokenizers = {
            card.name: PromptIds(settings.model_repository, card) for card in catalog.cards.values()
        }
    except ValueError as error:
        raise CannotStartError(str(error)) from error
    key = settings.triton_admin_key
    nvml = Nvml(time.monotonic)
    outbox = Outbox()
    files = ModelFiles(settings.model_repository)
    host = HostMemory(
        settings.host_memory_bytes,
        files,
        {card.name: card.components.triton_models for card in catalog.cards.values()},
    )
    stores = Stores.from_settings(settings)
    steps = None
    if meter:
        stores.measure(meter)
        steps = Steps(meter) if is_scraped(meter) else None
    copy_back = CopyBack(stores, settings.url_lifetime_seconds)
    store = store or stores
    inputs, results, checkpoints = Inputs(store), Results(store), Checkpoints(store)
    devices = {
        device.id: Device(
            device,
            catalog,
            Triton(device.triton_address, key.get_secret_value() if key else None),
            results,
            inputs=inputs,
            tokenizers=tokenizers,
            clock=time.monotonic,
            gauge=Gauge(nvml.gpu(device.gpu) if device.gpu else None, device.id),
            files=files,
            checkpoints=checkpoints,
            tell=lambda message: commands.tell(message),
            steps=steps,
        )
        for device in settings.devices
    }
    commands = Commands(devices, outbox, host)
    link = Link(
        settings.node,
        devices,
        commands,
        outbox,
        connect=scheduler_at(
            settings.scheduler_address, peers_of(settings), settings.scheduler_name
        ),
        rng=secrets.SystemRandom(),
        host=host,
    )
    log.info("agent starts", node=settings.node, devices=list(devices), models=list(catalog.cards))

    async def connect_when_live() -> None:
        await asyncio.gather(
            *(device.wait_until_live(START_SECONDS) for device in devices.values())
        )
        await link.run()

    copy_back.start()
    stopping = asyncio.create_task(stop.wait())
    background = [asyncio.create_task(connect_when_live()), asyncio.create_task(host.run())]
    background += [asyncio.create_task(device.run_loop()) for device in devices.values()]
    try:
        ended, _ = await asyncio.wait([stopping, *background], return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()  # a background task never ends unless it broke: then so do we
    finally:
        log.info("agent stops")
        for task in [stopping, *background]:  # the link first: nothing new is taken
            task.cancel()
        await asyncio.gather(stopping, *background, return_exceptions=True)
        await commands.close()
        inputs.close()
        results.close()
        checkpoints.close()
        copy_back.close()
        stores.close()
        for device in devices.values():
            await device.close()
        with suppress(TimeoutError):  # a driver that hangs would hold us
            async with asyncio.timeout(LIVE_SECONDS):
                await asyncio.to_thread(nvml.close)
