"""Bring the schema up to date: numbered SQL files, each applied once, under an advisory lock.

A `_pre_` migration goes before the code that needs it, a `_post_` one after the last process of the
old code is gone; both kinds are applied in order of their numbers. Each is one transaction, so an
index on a large table is built beforehand (prebuild.py).
"""

from __future__ import annotations

from importlib.resources import files

import psycopg

FOLDER = files("atelier") / "sql" / "migrations"
_LOCK = 0x4174656C  # "Atel": one migration at a time, whoever starts first


def migrate(dsn: str) -> list[str]:
    """Apply what is missing; the names of the files applied.

    Raises:
        psycopg.Error: the database refused; nothing of that file is left behind.
    """
    applied = []
    with psycopg.connect(dsn, connect_timeout=5, prepare_threshold=None) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        for name in to_come(connection):
            connection.execute((FOLDER / name).read_bytes())
            connection.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (name,))
            applied.append(name)
    return applied


def to_come(connection: psycopg.Connection[tuple[str]]) -> list[str]:
    """The files that are not applied yet, in their order; all where there is no schema."""
    there = connection.execute("SELECT WHERE to_regclass('schema_migrations') IS NOT NULL")
    done = set[str]()
    if there.fetchone() is not None:
        done = {name for (name,) in connection.execute("SELECT name FROM schema_migrations")}
    names = {path.name for path in FOLDER.iterdir() if path.name.endswith(".sql")}
    return sorted(names - done)
