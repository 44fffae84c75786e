"""The parts of webhooks over a real database, with a look into the table behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

import psycopg
from opentelemetry.metrics import Meter, NoOpMeterProvider
from psycopg.rows import dict_row

from atelier.addresses import Rules
from atelier.database import Database
from atelier.egress import Egress
from atelier.generation import FINAL, Generation
from atelier.generation_store import GenerationStore
from atelier.traces import Traces
from atelier.webhook_store import StoredWebhook, WebhookStore
from tests.support.generations import BY, RESULT, generation
from tests.support.receiver import PATIENCE_SECONDS
from webhooks.outbox import Outbox
from webhooks.post import Poster
from webhooks.worker import Worker

LOOPBACK = Rules((ip_network("127.0.0.0/8"),), (), plain_http=True)
SECRET = "whsec_" + "c2VjcmV0" * 6
NO_METER = NoOpMeterProvider().get_meter("test")


class Bench:
    """The parts, and a look into the table behind them."""

    def __init__(self, dsn: str, generations: GenerationStore) -> None:
        self.dsn = dsn
        self.generations = generations
        self.webhooks = WebhookStore(generations.database)

    async def hook(self, url: str, tenant: str = "local", **changes: Any) -> StoredWebhook:
        wanted = {"events": tuple(FINAL), "include_prompts": False, "description": ""}
        return await self.webhooks.insert(
            tenant, str(uuid4()), SECRET, url=url, **{**wanted, **changes}
        )

    async def succeed(self, **changes: object) -> Generation:
        [g] = await self.generations.insert([generation(**changes)])
        claimed = await self.generations.claim(g.id, "d0")
        assert claimed and claimed.lease_token
        done = await self.generations.publish(g.id, claimed.lease_token, [RESULT], BY)
        assert done
        return done

    def rows(self, query: str = "SELECT * FROM webhook_deliveries ORDER BY seq") -> list[Any]:
        with psycopg.connect(self.dsn, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()  # type: ignore[call-overload]

    def change(self, statement: str) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    async def until(
        self, true: Callable[[list[Any]], bool], seconds: float = PATIENCE_SECONDS
    ) -> list[Any]:
        async with asyncio.timeout(seconds):
            while not true(rows := self.rows()):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
        return rows

    async def ended(self, count: int) -> list[Any]:
        return await self.until(lambda rows: sum(bool(r["finish_time"]) for r in rows) >= count)

    @asynccontextmanager
    async def worker(
        self,
        rules: Rules = LOOPBACK,
        *,
        meter: Meter = NO_METER,
        traces: Traces | None = None,
        **egress: Any,
    ) -> AsyncIterator[Worker]:
        """One that works, with a line of its own."""
        async with Database(self.dsn) as database:
            poster = Poster(Egress(rules, **egress))
            worker = Worker(Outbox(database), poster, meter, traces=traces)
            task = asyncio.create_task(worker.run())
            try:
                yield worker
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await poster.close()
