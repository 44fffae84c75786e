"""A leader that stops in the middle of a write (RELIABILITY A8): who comes after it waits for no
longer than PostgreSQL lets a transaction idle, and what was begun is undone."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from opentelemetry.metrics import NoOpMeterProvider

from atelier.database import Database
from atelier.generation import State
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from scheduler.leadership import Leadership
from tests.support.generations import generation

METER = NoOpMeterProvider().get_meter("test")


async def test_the_election_waits_no_longer_than_a_transaction_may_idle(dsn: str) -> None:
    migrate(dsn)
    async with GenerationStore(dsn) as store, Database(dsn, connections=1) as lease:
        await Leadership(lease, "a", meter=METER).won()
        row = generation()
        await store.insert([row])
        # Every write of ours is one statement, which PostgreSQL ends whatever becomes of us. One
        # that were several would be held to what our lines are opened with, here made shorter.
        pool = store.database._pool
        async with pool.connection() as line:
            told = await (await line.execute("SHOW idle_in_transaction_session_timeout")).fetchone()
            assert told == {"idle_in_transaction_session_timeout": "5s"}
        stopped = await psycopg.AsyncConnection.connect(dsn)
        await stopped.execute("SET idle_in_transaction_session_timeout = 500")
        await stopped.commit()
        await stopped.execute("SELECT fenced(1)")
        await stopped.execute(
            "UPDATE generations SET state = 'CANCELLED', finish_time = clock_timestamp()"
            " WHERE id = %s",
            [row.id],
        )
        await lease.rows("resign")
        async with Database(dsn, connections=1) as other, asyncio.timeout(5):
            assert await Leadership(other, "b", meter=METER).won() == 2
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            await stopped.execute("COMMIT")
        await stopped.close()
        assert (found := await store.look(row.id))
        assert found.state is State.QUEUED
