"""Bring the schema up to date: numbered SQL files, each applied once, under an advisory lock.

A `_pre_` migration goes before the code that needs it, a `_post_` one after the last process of the
old code is gone; both kinds are applied in order of their numbers.
"""

from __future__ import annotations

from importlib.resources import files

import psycopg

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
        done = {name for (name,) in connection.execute("SELECT name FROM schema_migrations")}
        folder = files("atelier") / "sql" / "migrations"
        for path in sorted(folder.iterdir(), key=lambda p: p.name):
            if path.name.endswith(".sql") and path.name not in done:
                connection.execute(path.read_bytes())
                connection.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (path.name,))
                applied.append(path.name)
    return applied
