"""The days of the store: history is read and guarded as what is new, and goes by whole days."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from uuid import UUID

import psycopg
import pytest

from atelier.errors import StorageRefusedError, UnavailableError
from atelier.generation import Generation, State, new_id
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from scheduler.history import AHEAD_DAYS, KEYS_AT_ONCE, TABLES, History
from tests.support.generations import BY, RESULT, SPEC, generation

DAY_SECONDS = 86_400.0
RETENTION_DAYS = 30


@pytest.fixture
async def aged(dsn: str) -> AsyncIterator[GenerationStore]:
    """With a day for each of the last forty-odd."""
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "DO $$ BEGIN EXECUTE (SELECT 'DROP TABLE ' || string_agg("
            " format('generations_%s, generation_events_%s', name, name), ', ')"
            " FROM generation_days); END $$"
        )
        connection.execute("DELETE FROM generation_days")
        connection.execute(
            "SELECT make_day(d, d + interval '24 hours') FROM generate_series("
            " date_trunc('day', now(), 'UTC') - interval '984 hours',"
            " date_trunc('day', now(), 'UTC'), interval '24 hours') d"
        )
    async with GenerationStore(dsn) as aged:
        yield aged


@pytest.fixture
def history(aged: GenerationStore) -> History:
    return History(aged.database, RETENTION_DAYS)


def made_days_ago(days: float, **changes: object) -> Generation:
    made = time.time() - days * DAY_SECONDS
    bits = time.perf_counter_ns()
    create_time = datetime.fromtimestamp(made, UTC)
    return generation(id=new_id(made, bits), create_time=create_time, **changes)


async def finished(aged: GenerationStore, wanted: Iterable[Generation]) -> list[Generation]:
    rows = []
    for g in await aged.insert(list(wanted)):
        claimed = await aged.claim(g.id, "d0")
        assert claimed and claimed.lease_token
        published = await aged.publish(g.id, claimed.lease_token, [RESULT], BY)
        assert published
        rows.append(published)
    return rows


def days(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT name FROM generation_days ORDER BY until").fetchall()
        tables = connection.execute(
            "SELECT substr(relname, 13) FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid"
            " WHERE inhparent = 'generations'::regclass ORDER BY 1"
        ).fetchall()
    assert rows == tables
    return [name for (name,) in rows]


async def test_history_is_read_as_what_is_new(aged: GenerationStore) -> None:
    old, new = await finished(aged, [made_days_ago(20, request_id="k"), generation()])
    assert [g.id for g in await aged.scan("local", before_id=None, limit=9)] == [new.id, old.id]
    assert await aged.scan("local", before_id=new.id, limit=9) == [old]
    assert await aged.read("local", old.id) == old
    assert await aged.insert([generation(request_id="k")]) == [old]
    assert await aged.request_cancel("local", old.id) is None


async def test_a_late_generation_of_an_old_day_runs_like_any_other(aged: GenerationStore) -> None:
    [g] = await aged.insert([made_days_ago(12)])
    assert await aged.unfinished() == [g] and await aged.standing() == {g.id: None}
    claimed = await aged.claim(g.id, "d0")
    assert claimed and claimed.lease_token
    assert await aged.requeue(g.id, claimed.lease_token, "why")
    assert await aged.requeued_for(g.id, ["why"]) == 1
    assert await aged.requeued_for(g.id, ["other"]) == 0


async def test_fifty_at_once_on_two_sides_of_midnight_make_one(aged: GenerationStore) -> None:
    rivals = [made_days_ago(i % 2, request_id="same") for i in range(50)]
    answers = await asyncio.gather(*(aged.insert([rival]) for rival in rivals))
    assert len({answer.id for [answer] in answers}) == 1
    assert len(await aged.unfinished()) == 1


async def test_days_past_the_retention_go_and_their_keys_with_them(
    aged: GenerationStore, dsn: str, history: History
) -> None:
    past, kept = await finished(
        aged, [made_days_ago(35, request_id="past"), made_days_ago(29, request_id="kept")]
    )
    before = days(dsn)
    dropped = await history.drop_days()
    assert before[: len(dropped)] == dropped and days(dsn) == before[len(dropped) :]
    assert len(before) - len(dropped) == RETENTION_DAYS + 1  # today is not over
    assert await aged.read("local", past.id) is None
    assert await aged.scan("local", before_id=None, limit=9) == [kept]
    assert await aged.insert([generation(request_id="kept")]) == [kept]
    [again] = await aged.insert([generation(request_id="past")])
    assert again.id != past.id
    assert await history.drop_days() == []
    with psycopg.connect(dsn) as connection:
        events = connection.execute(
            "SELECT count(*) FROM generation_events WHERE generation_id = %s", (past.id,)
        ).fetchone()
    assert events == (0,)


async def test_a_day_with_something_unfinished_stays_and_so_do_its_keys(
    aged: GenerationStore, dsn: str, history: History
) -> None:
    [ended] = await finished(aged, [made_days_ago(35, request_id="ended")])
    [waits] = await aged.insert([made_days_ago(35, request_id="waits")])
    dropped = await history.drop_days()
    assert dropped and await aged.unfinished() == [waits]
    assert await aged.insert([generation(request_id="ended")]) == [ended]
    assert await aged.insert([generation(request_id="waits")]) == [waits]
    await aged.request_cancel("local", waits.id)
    assert len(await history.drop_days()) == 1
    assert await aged.read("local", ended.id) is None is await aged.read("local", waits.id)


async def test_more_keys_than_are_forgotten_at_once(aged: GenerationStore, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO request_keys SELECT 'local', n::text, id_at(now() - interval '960 hours')"
            f" FROM generate_series(1, {KEYS_AT_ONCE + 1}) n"
        )
        await asyncio.to_thread(connection.commit)
        await History(aged.database, RETENTION_DAYS).drop_days()
        assert connection.execute("SELECT count(*) FROM request_keys").fetchone() == (0,)


async def test_no_retention_keeps_everything(aged: GenerationStore, dsn: str) -> None:
    before = days(dsn)
    assert await History(aged.database, 0).drop_days() == []
    for name in before:  # nor if it is told to
        [row] = await aged.database.rows("drop_day", name=name, retention_days=0)
        assert not row["dropped"]
    assert days(dsn) == before


async def test_who_reads_for_long_delays_the_drop_and_nobody_else(
    aged: GenerationStore, dsn: str, history: History
) -> None:
    [g] = await aged.insert([generation()])
    before = days(dsn)
    with psycopg.connect(dsn) as backup:
        backup.execute("SELECT count(*) FROM generations").fetchone()
        with pytest.raises(UnavailableError):
            async with asyncio.timeout(3):  # far below what it would be willing to wait
                await history.drop_days()
        assert await aged.claim(g.id, "d0")
        assert days(dsn) == before
    assert await history.drop_days()


async def test_days_are_made_ahead_once_and_leave_no_gap(aged: GenerationStore, dsn: str) -> None:
    history = History(aged.database, 3)  # a day in each table
    with pytest.raises(StorageRefusedError):
        await aged.insert([made_days_ago(-1)])
    assert await history.make_days() == AHEAD_DAYS and await history.make_days() == 0
    await aged.insert([made_days_ago(-1)])
    with psycopg.connect(dsn) as connection:  # a scheduler that was away for a week
        for name in days(dsn)[-7:]:
            connection.execute(f"DROP TABLE generations_{name}, generation_events_{name}")  # type: ignore[call-overload]
            connection.execute("DELETE FROM generation_days WHERE name = %s", (name,))
    assert await history.make_days() == 1 + AHEAD_DAYS
    assert len(await aged.insert([made_days_ago(n) for n in range(7)])) == 7


@pytest.mark.parametrize("retention_days", [1, 5, 30, 365, 0])
async def test_tables_are_few_and_reach_beyond_tomorrow(
    aged: GenerationStore, dsn: str, retention_days: int
) -> None:
    history = History(aged.database, retention_days)
    known = len(days(dsn))
    made = await history.make_days()
    assert made == len(days(dsn)) - known and 1 <= made <= AHEAD_DAYS
    assert await aged.insert([made_days_ago(-AHEAD_DAYS)])
    if retention_days:
        assert retention_days / history.span_days < 2 * TABLES


async def test_a_statement_about_one_generation_reads_one_day(
    aged: GenerationStore, dsn: str
) -> None:
    [g] = await finished(aged, [generation()])
    about_one = {"id": g.id, "tenant": "local", "device": "d", "lease_token": 1, "detail": "{}",
                 "failure": "{}", "results": "[]", "provenance": "{}", "reasons": ["a"],
                 "gpu_seconds": 1.5, "epoch": None}  # fmt: skip
    names = ("read", "look", "claim", "publish", "requeue", "fail", "expire", "request_cancel",
             "cancel_running", "requeued_for")  # fmt: skip
    with psycopg.connect(dsn) as connection:
        for name in names:
            read = tables_read(connection, aged.database.queries[name], about_one)
            assert len(read) == 1, (name, read)
        listed = {"tenant": "local", "first": str(UUID(int=0)), "beyond": str(UUID(int=2**128 - 1)),
                  "limit": 1, "states": None, "open": False, "in_vain": False, "model": "",
                  "labels": "{}", "created_after": None, "created_before": None}  # fmt: skip
        read = tables_read(connection, aged.database.queries["scan"], listed, executed=True)
        assert read == {"generations_" + days(dsn)[-1]}  # the newest day has enough


def tables_read(
    connection: psycopg.Connection[Any],
    query: str,
    arguments: dict[str, Any],
    *,
    executed: bool = False,
) -> set[str]:
    """Days of generations and of events that a plan names, or that were read."""
    options = "ANALYZE, FORMAT JSON" if executed else "FORMAT JSON"
    [plan] = connection.execute(f"EXPLAIN ({options}) {query}", arguments).fetchone() or ()  # type: ignore[call-overload]
    found, todo = set(), [plan[0]["Plan"]]
    while todo:
        node = todo.pop()
        todo += node.get("Plans", [])
        scanned = "Scan" in node["Node Type"] and "Relation Name" in node
        if scanned and node.get("Actual Loops", 1):
            found.add(node["Relation Name"])
    return found


async def test_a_claim_touches_no_index(aged: GenerationStore, dsn: str) -> None:
    [g] = await aged.insert([generation()])
    arguments = {"id": g.id, "device": "d0", "epoch": None}
    with psycopg.connect(dsn) as connection:
        connection.execute(aged.database.queries["claim"], arguments)
        counts = connection.execute(
            "SELECT sum(n_tup_upd), sum(n_tup_hot_upd) FROM pg_stat_xact_user_tables"
            " WHERE relname LIKE 'generations_2%'"
        ).fetchone()
    assert counts == (1, 1)


OLD_INSERT = """
WITH new AS (
    INSERT INTO generations (id, tenant, model, spec, priority, request_id, request_hash,
                             create_time)
    VALUES (%(id)s, 'local', 'toy', %(spec)s, %(priority)s, %(request_id)s, '00', %(create_time)s)
    ON CONFLICT DO NOTHING
    RETURNING id
)
INSERT INTO generation_events (generation_id, event, attempt) SELECT id, 'submit', 0 FROM new
"""
OLD_FIND = "SELECT id::text FROM generations WHERE tenant = 'local' AND request_id = %s"


def old_insert(connection: psycopg.Connection[Any], request_id: str) -> Generation:
    """As the code before migration 0004 did it."""
    g = generation(request_id=request_id, request_hash=b"\0")
    spec = json.dumps(asdict(SPEC))
    connection.execute(
        OLD_INSERT,
        {
            "id": g.id,
            "spec": spec,
            "priority": g.priority,
            "request_id": request_id,
            "create_time": g.create_time,
        },
    )
    return g


async def test_a_database_with_generations_is_migrated_and_old_code_goes_on_beside(
    dsn: str,
) -> None:
    folder = files("atelier") / "sql" / "migrations"
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE schema_migrations (name text PRIMARY KEY,"
                           " applied_at timestamptz DEFAULT clock_timestamp())")  # fmt: skip
        for path in sorted(folder.iterdir(), key=lambda p: p.name):
            if path.name < "0004":
                connection.execute(path.read_bytes())
                connection.execute("INSERT INTO schema_migrations VALUES (%s)", (path.name,))
        waits, runs, ended = (old_insert(connection, key) for key in ("w", "r", "e"))
        connection.execute(
            "UPDATE generations SET state = 'RUNNING', attempt = 1, device = 'd0',"
            " lease_token = nextval('lease_tokens') WHERE id = %s", (runs.id,)
        )  # fmt: skip
        connection.execute(
            "UPDATE generations SET state = 'CANCELLED', finish_time = now() WHERE id = %s",
            (ended.id,),
        )
        seq = connection.execute("SELECT max(seq) FROM generation_events").fetchone()
    assert migrate(dsn)[0] == "0004_pre_days.sql"
    async with GenerationStore(dsn) as aged:
        assert [g.id for g in await aged.unfinished()] == [waits.id, runs.id]
        for g in (waits, runs, ended):
            [same] = await aged.insert([generation(request_id=g.request_id)])
            assert same.id == g.id
        running = await aged.look(runs.id)
        assert running and running.lease_token
        published = await aged.publish(runs.id, running.lease_token, [RESULT], BY)
        assert published and published.state is State.SUCCEEDED
        assert await aged.claim(waits.id, "d0")
        with psycopg.connect(dsn, autocommit=True) as connection:
            late = connection.execute(
                "SELECT min(seq) FROM generation_events WHERE event = 'publish'"
            )
            assert seq and (late.fetchone() or (0,))[0] > seq[0]
            for key, known in (("w", waits), ("e", ended)):
                old_insert(connection, key)
                assert connection.execute(OLD_FIND, (key,)).fetchall() == [(known.id,)]
            new = old_insert(connection, "n")
        [same] = await aged.insert([generation(request_id="n")])
        assert same.id == new.id
    assert migrate(dsn) == []
