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
from tests.faults.stack import SCHEDULERS, Stack
from tests.support.receiver import Received

_OPEN = (
    "SELECT (SELECT count(*) FROM generations WHERE finish_time IS NULL)"
    " + (SELECT count(*) FROM webhook_deliveries WHERE finish_time IS NULL)"
)
# What a refused write is called in the schedulers' logs; a deposed leader's first is its renewal.
_REFUSED = {
    "of lost attempts": ("lost attempt's write refused",),
    "of deposed leaders": ("deposed leader's write refused", "another scheduler leads now"),
}
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


async def gather(stack: Stack, told: Sequence[Told], received: Sequence[Received]) -> Evidence:
    """All of it."""
    heard = {(r.event["data"]["id"], r.event["data"]["state"]) for r in received}
    return await asyncio.to_thread(_gather, stack, told, heard)


def _still_open(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        [found] = connection.execute(_OPEN).fetchone() or [0]
        return int(found)


def _gather(stack: Stack, told: Sequence[Told], heard: set[tuple[str, str]]) -> Evidence:
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
    return Evidence(told, rows, events, objects, heard, refused(stack))


def refused(stack: Stack) -> dict[str, int]:
    """How many writes were refused, by whose they were: lines of the schedulers' logs, and what the
    run's own zombies said."""
    said = "".join(stack.log(name) for name in SCHEDULERS)
    lines = said.splitlines()
    counts = {
        whose: sum(any(words in line for words in telling) for line in lines)
        for whose, telling in _REFUSED.items()
    }
    counts["of lost attempts"] += stack.refused_words
    return counts


def _files(results: list[dict[str, str]]) -> tuple[File, ...]:
    return tuple(File(r["object_key"], int(r["size_bytes"]), r["sha256"]) for r in results)
