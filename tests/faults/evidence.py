"""What a run left behind, read from the database and the object store without the product's help
but for the client of S3."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import psycopg
from pydantic import SecretStr

from atelier.config import Bucket
from atelier.embedded.s3 import BUCKET
from atelier.errors import NotFoundError
from atelier.object_store import ObjectStore
from tests.faults.checker import Evidence, File, Happened, Row
from tests.faults.history import Told
from tests.faults.stack import Stack

_OPEN = "SELECT count(*) FROM generations WHERE finish_time IS NULL"
_ROWS = "SELECT id::text, request_id, state, attempt, results FROM generations"
_EVENTS = (
    "SELECT generation_id::text, seq, event, attempt, extract(epoch FROM time)::float8"
    " FROM generation_events ORDER BY generation_id, seq"
)


async def drained(stack: Stack, seconds: float) -> None:
    """Wait until nothing is under way; what is then left, the checker complains about."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + seconds
    while loop.time() < give_up:
        if not await asyncio.to_thread(_still_open, stack.postgres.dsn):
            return
        await asyncio.sleep(0.5)


async def gather(stack: Stack, told: Sequence[Told]) -> Evidence:
    """All of it."""
    return await asyncio.to_thread(_gather, stack, told)


def _still_open(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        [found] = connection.execute(_OPEN).fetchone() or [0]
        return int(found)


def _gather(stack: Stack, told: Sequence[Told]) -> Evidence:
    with psycopg.connect(stack.postgres.dsn) as connection:
        rows = [
            Row(name, key, state, attempt, _files(results or []))
            for name, key, state, attempt, results in connection.execute(_ROWS)
        ]
        events = [Happened(*event) for event in connection.execute(_EVENTS)]
    part = stack.object_store
    store = ObjectStore.at(
        Bucket(
            endpoint=part.address, access_key=part.access_key,
            secret_key=SecretStr(part.secret_key), name=BUCKET, region="us-east-1", secure=False,
        )
    )  # fmt: skip
    objects = {}
    for key in (file.key for row in rows for file in row.results):
        try:
            data = store.get(key)
        except NotFoundError:
            continue
        objects[key] = (len(data), hashlib.sha256(data).hexdigest())
    return Evidence(told, rows, events, objects)


def _files(results: list[dict[str, str]]) -> tuple[File, ...]:
    return tuple(File(r["object_key"], int(r["size_bytes"]), r["sha256"]) for r in results)
