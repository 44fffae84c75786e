"""Indexes of migrations to come, built while others write; the migrations then build nothing."""

from __future__ import annotations

import asyncio
from importlib.resources import files

import psycopg
import pytest

from atelier.migrate import migrate
from atelier.prebuild import prebuild

BEFORE = "0009"
INDEXES = {"by_model", "by_label", "in_vain"}
ROW = """
INSERT INTO generations (id, tenant, model, spec, priority, create_time)
VALUES (id_at(clock_timestamp() + %s * interval '1 ms'), 'local', 'toy', '{}', 'NORMAL', now())
"""


@pytest.fixture
def aged(dsn: str) -> str:
    """As the version before that migration left it, with days and a row."""
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE schema_migrations (name text PRIMARY KEY,"
                           " applied_at timestamptz DEFAULT clock_timestamp())")  # fmt: skip
        folder = files("atelier") / "sql" / "migrations"
        for path in sorted(folder.iterdir(), key=lambda p: p.name):
            if path.name < BEFORE:
                connection.execute(path.read_bytes())
                connection.execute("INSERT INTO schema_migrations VALUES (%s)", (path.name,))
        connection.execute(ROW, (0,))
    return dsn


def indexes(dsn: str) -> dict[str, tuple[bool, str | None]]:
    """Those of the days' tables: whether each is valid, and whose part it is."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT c.relname, x.indisvalid, i.inhparent::regclass::text FROM pg_index x"
            " JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid"
            " LEFT JOIN pg_inherits i ON i.inhrelid = x.indexrelid"
            " WHERE t.relname ~ '^generations_2'"
        )
        return {name: (valid, whole) for name, valid, whole in rows}


def days(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM generation_days")}


def test_what_was_built_before_is_what_the_migration_takes(aged: str) -> None:
    built = prebuild(aged)
    assert set(built) == {f"generations_{day}_{index}" for day in days(aged) for index in INDEXES}
    assert prebuild(aged) == []
    before = indexes(aged)
    assert all(before[name] == (True, None) for name in built)
    assert migrate(aged)[0] == "0009_pre_lists.sql"
    after = indexes(aged)
    assert after.keys() == before.keys()  # none was built beside them
    for name in built:
        assert after[name] == (True, f"generations_{name.split('_', 2)[2]}")
    assert prebuild(aged) == []


def test_one_that_was_left_half_built_is_built_anew(aged: str) -> None:
    name = prebuild(aged)[0]
    with psycopg.connect(aged) as connection:  # as a build that is killed leaves it
        connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (name,)
        )
    assert prebuild(aged) == [name]
    assert indexes(aged)[name] == (True, None)


async def test_others_write_meanwhile(aged: str) -> None:
    with psycopg.connect(aged) as writer, psycopg.connect(aged, autocommit=True) as other:
        writer.execute(ROW, (1,))  # the build waits for it to commit, and holds up nobody
        building = asyncio.create_task(asyncio.to_thread(prebuild, aged))
        other.execute("SET lock_timeout = '1s'")
        done, _ = await asyncio.wait([building], timeout=0.5)
        assert not done
        other.execute(ROW, (2,))
        writer.commit()
        async with asyncio.timeout(20):
            assert await building


def test_an_empty_database_has_nothing_to_build(dsn: str) -> None:
    assert prebuild(dsn) == []
