"""The line to PostgreSQL: a pool, named statements (sql/*.sql), and what its errors mean."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Any, LiteralString, Self, TypeVar

import psycopg
import structlog
from opentelemetry.metrics import Histogram, Meter
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from atelier.errors import AtelierError, DeposedError, StorageRefusedError, UnavailableError
from atelier.failpoints import failpoint
from atelier.generation import Event, sources
from atelier.instruments import DATABASE_DURATION, DATABASE_WAITING
from atelier.metrics import Labels, histogram, is_scraped, observe

log = structlog.get_logger()

T = TypeVar("T")

CHECK_SECONDS = 2.0  # for a line to show that it works, before it is used
ANSWER_SECONDS = 7.0  # for a statement: one that the database can still end, it ends sooner
ROWS_AT_ONCE = 1_000  # made objects of before the loop has its turn again

_CONNECTION: dict[str, Any] = {
    "connect_timeout": 3,
    "tcp_user_timeout": 3_000,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "application_name": "atelier-scheduler",
    # A pooler that lends connections by transactions (pgbouncer) knows no statements prepared on
    # another, and preparing saves little here: a plan is made for the one table that it reads.
    "prepare_threshold": None,
    # Time zone: a deadline late in the year 9999 would be read as one of the year 10000 elsewhere.
    "options": "-c timezone=UTC -c statement_timeout=5000 -c lock_timeout=2000"
    " -c idle_in_transaction_session_timeout=5000",
}

# SQLSTATE classes that pass: connection, read-only (a fail-over), serialization and deadlock,
# resources, locks, operator intervention, system error.
_PASSING = {"08", "25", "40", "53", "55", "57", "58"}

# What the function `fenced` raises with (migration 0003).
_EPOCH_IS_OVER = "AT001"
_FENCE = "(SELECT fenced(%(epoch)s::bigint))"

_GUARDED = {
    "claim": Event.CLAIM,
    "publish": Event.PUBLISH,
    "requeue": Event.REQUEUE,
    "fail": Event.FAIL,
    "expire": Event.EXPIRE,
    "request_cancel": Event.CANCEL,
    "cancel_running": Event.CANCEL,
}


class Database:
    """What the scheduler's stores share. `rows` raises UnavailableError while the database is away
    (a write that was not acknowledged may have happened), StorageRefusedError for what it will not
    take the next time either, and DeposedError for a write where the epoch is over.

    epoch: of the leader that writes; None writes unfenced.
    """

    def __init__(
        self, dsn: str, *, connections: int = 8, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._answer_seconds = answer_seconds
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=connections,
            timeout=5.0,
            max_waiting=1_000,
            kwargs={**_CONNECTION, "autocommit": True, "row_factory": dict_row},
            check=_check,
            open=False,
        )
        self.queries = _load_queries()
        self.epoch: int | None = None
        self._took: Histogram | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=10.0)

    async def close(self) -> None:
        await self._pool.close()

    def measure(self, meter: Meter) -> None:
        """Tell how long statements take from now on, and how many wait for a connection."""
        if not is_scraped(meter):
            return
        self._took = histogram(meter, DATABASE_DURATION)

        def waiting() -> list[tuple[float, Labels]]:
            return [(self._pool.get_stats().get("requests_waiting", 0), {})]

        observe(meter, DATABASE_WAITING, waiting)

    async def rows(self, query: str, **arguments: Any) -> list[Mapping[str, Any]]:
        """Run a statement by its name; the rows that it gives, if any."""
        if self._took is None:
            return await self._rows(query, arguments)
        began, error = time.perf_counter(), "CANCELLED"
        try:
            rows = await self._rows(query, arguments)
            error = ""
            return rows
        except AtelierError as ended:
            error = ended.reason or ended.code
            raise
        finally:
            labels = {"db.query.summary": query, "error.type": error}
            self._took.record(time.perf_counter() - began, labels)

    async def _rows(self, query: str, arguments: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        try:
            async with self._pool.connection() as connection:
                with _cut_after(self._answer_seconds, connection):
                    cursor = await connection.execute(
                        self.queries[query], {"epoch": self.epoch, **arguments}
                    )
                    rows = await _read_out(cursor) if cursor.description else []
                    failpoint("statement_done", psycopg.OperationalError)
                    return rows
        except psycopg.Error as error:
            if error.sqlstate == _EPOCH_IS_OVER:
                log.warning("deposed leader's write refused", statement=query, epoch=self.epoch)
                raise DeposedError from error
            if _passes(error):
                raise UnavailableError(
                    "the database is away; try again", retry_after_seconds=1.0
                ) from error
            raise StorageRefusedError("the database refuses these values") from error


async def _read_out(cursor: psycopg.AsyncCursor[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """All rows. They have arrived; to make objects of 60,000 takes a third of a second, so others
    have their turn in between."""
    rows: list[Mapping[str, Any]] = []
    while some := await cursor.fetchmany(ROWS_AT_ONCE):
        rows += some
        if len(some) == ROWS_AT_ONCE:
            await asyncio.sleep(0)
    return rows


async def in_pieces(items: Iterable[T]) -> AsyncIterator[T]:
    """However many there are, nobody is held up for long."""
    for number, one in enumerate(items):
        if number % ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)
        yield one


async def _check(connection: psycopg.AsyncConnection[Any]) -> None:
    with _cut_after(CHECK_SECONDS, connection):
        await connection.execute("")


@contextmanager
def _cut_after(seconds: float, connection: psycopg.AsyncConnection[Any]) -> Iterator[None]:
    """Cut the line if what is done over it takes longer: then psycopg raises at once.

    A database, or a pooler before it, that is frozen ends no statement, and its kernel goes on
    answering for its sockets: it would be waited for without end. A cancel would be no way out, for
    psycopg asks the database to cancel first, and waits for that up to 10 s.
    """

    def cut() -> None:
        if not connection.closed:
            log.warning("database does not answer, its line is cut", seconds=seconds)
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(seconds, cut)
    try:
        yield
    finally:
        timer.cancel()


def _passes(error: psycopg.Error) -> bool:
    """Whether the same statement may go through later. A broken connection has no SQLSTATE."""
    if error.sqlstate:
        return error.sqlstate[:2] in _PASSING
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))


def _load_queries() -> dict[str, LiteralString]:
    folder = files("atelier") / "sql"
    queries: dict[str, str] = {}
    for path in folder.iterdir():
        if path.name.endswith(".sql"):
            parts = re.split(r"^-- name: (\w+)\n", path.read_text(), flags=re.MULTILINE)[1:]
            queries |= zip(parts[::2], parts[1::2], strict=True)
    for name, query in queries.items():
        queries[name] = query.replace("{fence}", _FENCE)
    for name, event in _GUARDED.items():
        states = ", ".join(f"'{state}'" for state in sources(event))
        queries[name] = queries[name].replace("{sources}", states)
    return queries  # files and enums of ours, no caller's text
