"""A PostgreSQL that is frozen keeps its sockets open and answers nothing: nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from atelier.database import CHECK_SECONDS, Database
from atelier.errors import UnavailableError
from atelier.migrate import migrate


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def serving(database: Database) -> int:
    """The process that serves its only line."""
    async with database._pool.connection() as connection:
        return connection.info.backend_pid


async def test_a_line_that_is_dead_when_it_is_taken_is_left_for_another(dsn: str) -> None:
    migrate(dsn)
    async with Database(dsn, connections=1) as database:
        with frozen(await serving(database)):
            async with asyncio.timeout(CHECK_SECONDS + 8):
                [row] = await database.rows("leader")
        assert (row["epoch"], row["holder"], row["leads"]) == (0, "", False)


@pytest.mark.slow
async def test_a_statement_that_gets_no_answer_is_given_up(dsn: str) -> None:
    migrate(dsn)
    async with Database(dsn, connections=1, answer_seconds=1.0) as database:
        pid = await serving(database)

        database._pool._check = None  # the line is trusted
        with frozen(pid):
            began = time.monotonic()
            async with asyncio.timeout(10):
                with pytest.raises(UnavailableError):
                    await database.rows("leader")
            print(f"given up after {time.monotonic() - began:.1f} s")
            assert await database.rows("leader") == []  # by another line
