"""What the scheduler asks of its store, timed: the same calls on two sides in turn."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import TypeVar
from uuid import uuid4

import psycopg

from atelier.generation import Generation, new_id
from atelier.generation_store import GenerationStore
from benchmarks.store_history import BY, RESULT, SPEC

GROUP = 32  # submits in one commit
STANDING = 1_000  # unfinished ones that are there all the time
TENANT = "t0"  # one of those that have a history
_BITS = random.Random(6)
_NUMBER = count()

T = TypeVar("T")
Times = dict[str, list[float]]  # seconds, by what was asked
Round = Callable[[GenerationStore, int, Times], Awaitable[None]]


def generation() -> Generation:
    return Generation(
        id=new_id(time.time(), next(_NUMBER) << 62 | _BITS.getrandbits(62)),
        tenant=TENANT,
        model="model-1",
        spec=SPEC,
        create_time=datetime.now(UTC),
        request_id=str(uuid4()),
        request_hash=b"h" * 32,
    )


async def everything(store: GenerationStore, turn: int, times: Times) -> None:
    """The whole hot path, and what operators and callers read."""
    group = await writes(store, turn, times)
    await _timed(times, "submit of 32 that are known", store.insert(group))
    await _timed(times, "get", store.read(TENANT, group[0].id))
    await _timed(times, "list, a page of 50", store.scan(TENANT, before_id=None, limit=50))
    if turn % 5 == 0:
        await _timed(times, "compare, 1,000 unfinished", store.standing())
        await _timed(times, "take up, 1,000 unfinished", store.unfinished())
    rest = [g.id for g in group[1:]]
    await asyncio.gather(*(store.request_cancel(TENANT, id) for id in rest))


async def writes(store: GenerationStore, turn: int, times: Times) -> list[Generation]:
    """A generation's way, twice claimed; what was submitted with it."""
    group = [generation() for _ in range(GROUP)]
    await _timed(times, "submit of 32", store.insert(group))
    first = await _timed(times, "claim", store.claim(group[0].id, "gpu-0"))
    assert first and first.lease_token
    await _timed(times, "requeue", store.requeue(first.id, first.lease_token, "why"))
    again = await _timed(times, "claim", store.claim(first.id, "gpu-1"))
    assert again and again.lease_token
    await _timed(times, "publish", store.publish(first.id, again.lease_token, [RESULT], BY))
    return group


async def only_writes(store: GenerationStore, turn: int, times: Times) -> None:
    await writes(store, turn, times)


async def _timed(times: Times, name: str, call: Awaitable[T]) -> T:
    began = time.perf_counter()
    found = await call
    times[name].append(time.perf_counter() - began)
    return found


async def in_turn(
    sides: Sequence[GenerationStore], rounds: int, work: Round, *, warm: int = 5
) -> list[Times]:
    """Each round on each side, one directly after the other, who begins alternates."""
    found: list[Times] = [defaultdict(list) for _ in sides]
    for turn in range(-warm, rounds):
        order = list(range(len(sides)))
        for side in order if turn % 2 else reversed(order):
            await work(sides[side], turn, found[side] if turn >= 0 else defaultdict(list))
    return found


async def stand(store: GenerationStore) -> None:
    for _ in range(0, STANDING, 250):
        await store.insert([generation() for _ in range(250)])


async def jobs(dsn: str, number: int) -> dict[str, float]:
    """Submit, claim, publish so many, eight at a time; what that left behind."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        [[start]] = connection.execute("SELECT pg_current_wal_lsn()").fetchall()
    async with GenerationStore(dsn) as store:
        todo: asyncio.Queue[Generation] = asyncio.Queue()

        async def worker() -> None:
            while not todo.empty():
                claimed = await store.claim(todo.get_nowait().id, "gpu-0")
                assert claimed and claimed.lease_token
                await store.publish(claimed.id, claimed.lease_token, [RESULT], BY)

        began = time.perf_counter()
        for _ in range(0, number, GROUP):
            for g in await store.insert([generation() for _ in range(GROUP)]):
                todo.put_nowait(g)
            if todo.qsize() >= 8 * GROUP:
                await asyncio.gather(*(worker() for _ in range(8)))
        await asyncio.gather(*(worker() for _ in range(8)))
        seconds = time.perf_counter() - began
    await asyncio.sleep(1.0)  # what the connections counted is told when they end
    with psycopg.connect(dsn, autocommit=True) as connection:
        [[updated, hot, dead, bytes_written]] = connection.execute(
            "SELECT sum(n_tup_upd), sum(n_tup_hot_upd), sum(n_dead_tup),"
            " pg_current_wal_lsn() - %s::pg_lsn FROM pg_stat_user_tables"
            " WHERE relname ~ '^generations_[0-9]+$'",
            (start,),
        ).fetchall()
        connection.execute("VACUUM")
        [[after, size]] = connection.execute(
            "SELECT sum(n_dead_tup), sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
            " WHERE relname ~ '^generations_[0-9]+$'"
        ).fetchall()
    return {
        "jobs": number,
        "jobs_per_second": number / seconds,
        "hot_share": float(hot / updated),
        "dead_per_job": float(dead / number),
        "dead_after_vacuum": float(after),
        "wal_bytes_per_job": float(bytes_written / number),
        "bytes_per_job": float(size / number),
    }
