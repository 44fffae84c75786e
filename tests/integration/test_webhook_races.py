"""A webhook that is deleted at the moment at which something is to be told to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest

from atelier.errors import FailedPreconditionError, NotFoundError
from atelier.generation import State
from tests.support.outbox import Bench

T = TypeVar("T")
URL = "http://127.0.0.1:9/"
WAITS = (
    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@contextmanager
def deleting(bench: Bench, webhook_id: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction in which it is deleted, and that has not ended."""
    with psycopg.connect(bench.dsn) as connection:
        connection.execute("DELETE FROM webhooks WHERE id = %s", (webhook_id,))
        yield connection


async def meanwhile(bench: Bench, deleter: psycopg.Connection[Any], write: Awaitable[T]) -> T:
    """What `write` gives, when the deletion is committed while it waits for that."""
    writing = asyncio.ensure_future(write)
    async with asyncio.timeout(10):
        while not bench.rows(WAITS):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
    deleter.commit()
    return await writing


async def test_a_generation_ends_though_its_webhook_goes(bench: Bench) -> None:
    gone, kept = await bench.hook(URL), await bench.hook(URL)
    with deleting(bench, gone.id) as deleter:
        done = await meanwhile(bench, deleter, bench.succeed())
    assert done.state is State.SUCCEEDED
    assert [str(row["webhook_id"]) for row in bench.rows()] == [kept.id]


async def test_a_test_of_it_finds_nothing(bench: Bench) -> None:
    hook = await bench.hook(URL)
    with deleting(bench, hook.id) as deleter:
        test = bench.webhooks.insert_test("local", hook.id, str(uuid4()))
        with pytest.raises(NotFoundError):
            await meanwhile(bench, deleter, test)


async def test_one_that_is_disabled_is_told_as_such(bench: Bench) -> None:
    hook = await bench.hook(URL)
    bench.change("UPDATE webhooks SET enabled = false")
    with pytest.raises(FailedPreconditionError):
        await bench.webhooks.insert_test("local", hook.id, str(uuid4()))
