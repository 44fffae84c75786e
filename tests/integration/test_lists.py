"""What a list is asked for finds its index, also among many, and times leave out whole days."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from atelier.generation import Generation, State, lowest_id, new_id
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from tests.support.generations import generation

MANY = 20_000
ROWS = f"""
INSERT INTO generations (id, tenant, model, spec, state, priority, labels, create_time, finish_time,
                         results, failure)
SELECT id_at(at), 'local', CASE WHEN n % 5000 = 7 THEN 'rare' ELSE 'toy' END, '{{}}',
       CASE WHEN n % 4000 = 5 THEN 'FAILED' ELSE 'SUCCEEDED' END, 'NORMAL',
       CASE WHEN n % 2 = 0 THEN jsonb_build_object('app', 'shop', 'job', (n / 40)::text)
            ELSE '{{}}' END,
       at, now(), CASE WHEN n % 4000 = 5 THEN NULL ELSE '[]'::jsonb END,
       CASE WHEN n % 4000 = 5 THEN '{{}}'::jsonb END
FROM (SELECT n, now() - interval '2 hours' + n * interval '1 millisecond' AS at
      FROM generate_series(1, {MANY}) n) r
"""


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[GenerationStore]:
    migrate(dsn)
    async with GenerationStore(dsn) as opened:
        yield opened


class Asked(GenerationStore):
    """Tells what it sends instead of sending it."""

    async def _run(self, query: str, **arguments: Any) -> list[Generation]:
        self.sent = {"epoch": None, **arguments}
        return []


async def plan_of(dsn: str, **filters: Any) -> tuple[set[str], int]:
    """The indexes that a list with these filters is read by, and how many rows are looked at for a
    page of 50."""
    asked = Asked(dsn)
    await asked.scan("local", before_id=None, limit=50, **filters)
    with psycopg.connect(dsn) as connection:
        query = f"EXPLAIN (ANALYZE, FORMAT JSON) {asked.database.queries['scan']}"
        [plan] = connection.execute(query, asked.sent).fetchone() or ()  # type: ignore[call-overload]
    indexes, looked, todo = set(), 0, [plan[0]["Plan"]]
    while todo:
        node = todo.pop()
        todo += node.get("Plans", [])
        indexes |= {node["Index Name"]} if "Index Name" in node else set()
        if "Relation Name" in node and node["Actual Loops"]:
            looked += node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            looked += node.get("Rows Removed by Index Recheck", 0)
            indexes |= {"none"} if node["Node Type"] == "Seq Scan" else set()
    return {name.partition("_")[2].partition("_")[2] for name in indexes}, looked


async def test_what_is_rare_is_found_without_looking_at_all(
    store: GenerationStore, dsn: str
) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(ROWS)
        connection.execute("ANALYZE generations")
    everything: dict[str, dict[str, Any]] = {
        "nothing said": {},
        "a model of few": {"model": "rare"},
        "a label of few": {"labels": {"job": "77"}},
        "a label of half": {"labels": {"app": "shop"}},
        "failed": {"states": [State.FAILED]},
        "failed or cancelled": {"states": [State.FAILED, State.CANCELLED]},
        "open": {"states": [State.QUEUED, State.RUNNING]},
        "after": {"created_after": datetime.now(UTC) - timedelta(minutes=1)},
        "before": {"created_before": datetime.now(UTC) - timedelta(hours=3)},
    }
    for what, filters in everything.items():
        indexes, looked = await plan_of(dsn, **filters)
        assert looked <= 300, (what, indexes, looked)
        assert "none" not in indexes


async def test_labels_times_and_states_together(store: GenerationStore) -> None:
    made = []
    for minutes in range(20):
        at = time.time() - 60 * minutes
        [g] = await store.insert(
            [
                generation(
                    id=new_id(at, minutes),
                    create_time=datetime.fromtimestamp(at, UTC),
                    labels={"n": str(minutes % 2)},
                )
            ]
        )
        made.append(g)
    for g in made[::4]:
        await store.request_cancel("local", g.id)
    found = await store.scan(
        "local",
        before_id=None,
        limit=50,
        states=[State.CANCELLED],
        labels={"n": "0"},
        created_after=made[16].create_time,
        created_before=made[4].create_time,
    )
    assert [g.id for g in found] == [made[n].id for n in (8, 12, 16)]


def scanned(plan: dict[str, Any]) -> set[str]:
    found = {plan["Relation Name"]} if "Relation Name" in plan else set()
    return found.union(*(scanned(inner) for inner in plan.get("Plans", [])))


async def test_a_time_leaves_out_the_days_beyond_it(store: GenerationStore, dsn: str) -> None:
    asked = Asked(dsn)
    now = datetime.now(UTC)
    days = {}
    for name, filters in (
        ("all", {}),
        ("from tomorrow on", {"created_after": now + timedelta(hours=25)}),
        ("before any", {"created_before": datetime(1970, 1, 1, tzinfo=UTC)}),
    ):
        await asked.scan("local", before_id=None, limit=50, **filters)  # type: ignore[arg-type]
        with psycopg.connect(dsn) as connection:
            query = f"EXPLAIN (FORMAT JSON) {asked.database.queries['scan']}"
            [plan] = connection.execute(query, asked.sent).fetchone() or ()  # type: ignore[call-overload]
        days[name] = scanned(plan[0]["Plan"])
    assert len(days["all"]) > len(days["from tomorrow on"]) >= 1
    assert len(days["before any"]) <= 1


async def test_the_lowest_id_of_a_moment_is_postgresql_s(store: GenerationStore, dsn: str) -> None:
    for year in (1971, 2026, 9999):
        moment = datetime(year, 5, 17, 3, 4, 5, 678_000, tzinfo=UTC)
        with psycopg.connect(dsn) as connection:
            theirs = connection.execute("SELECT id_at(%s)::text", (moment,)).fetchone()
        assert theirs == (lowest_id(moment),)
        assert lowest_id(moment) <= new_id(moment.timestamp(), 0)
    assert lowest_id(datetime(1, 1, 1, tzinfo=UTC)) == "00000000-0000-0000-0000-000000000000"
