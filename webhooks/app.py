"""The process that delivers webhooks, put together."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import grpc
import structlog

from atelier.config import WebhooksSettings
from atelier.database import Database
from atelier.egress import Egress
from atelier.metrics import exported
from atelier.migrate import migrate
from atelier.service import serving, tasks, unless_stopped
from atelier.traces import sending
from webhooks.outbox import Outbox
from webhooks.post import Poster
from webhooks.worker import Worker

log = structlog.get_logger()

LOOKUP_THREADS = 64  # the system's resolver takes one for as long as a name server is silent


async def run(settings: WebhooksSettings) -> None:
    """Deliver until SIGTERM or SIGINT."""
    await unless_stopped(_run(settings))


async def _run(settings: WebhooksSettings) -> None:
    dsn = settings.postgres_dsn.get_secret_value()
    applied = await asyncio.to_thread(migrate, dsn)
    log.info("schema ready", applied=applied)
    lookups = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")
    asyncio.get_running_loop().set_default_executor(lookups)
    tls = ssl.create_default_context(cafile=settings.webhook_ca_file)
    async with AsyncExitStack() as stack:
        meter = stack.enter_context(
            exported(
                "webhooks", settings.webhooks_metrics_listen, "ATELIER_WEBHOOKS_METRICS_LISTEN"
            )
        )
        database = await stack.enter_async_context(Database(dsn))
        database.measure(meter)
        poster = Poster(Egress(settings.webhook_rules), tls)
        stack.push_async_callback(poster.close)
        traces = stack.enter_context(
            sending(
                settings.otlp_endpoint,
                ratio=settings.trace_ratio,
                slow_seconds=settings.trace_slow_seconds,
            )
        )
        worker = Worker(Outbox(database), poster, meter, traces=traces)
        failed = await stack.enter_async_context(tasks(worker=worker.run(), tend=worker.tend()))
        await stack.enter_async_context(
            serving(settings.webhooks_listen, [], _no_services, meter=meter)
        )
        await asyncio.shield(failed)


def _no_services(server: grpc.aio.Server) -> None:
    """Health alone: it is told by whom it works for, the database."""
