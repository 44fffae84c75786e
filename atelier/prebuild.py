"""`python -m atelier.prebuild`: indexes that the next version wants, while the present one serves.

A migration is one transaction, and building an index in it lets nobody write to the table until it
commits. CREATE INDEX CONCURRENTLY does, but not inside a transaction, nor on a partitioned table.
It does on each partition; and CREATE INDEX on the whole table then takes what its partitions have,
and builds nothing. So this reads which indexes the migrations to come make on partitioned tables,
and builds them table by table; the migrations themselves stay as they are, and are quick.

It may be stopped at any time and run again: what was left half built is dropped and built anew.
Refused: to do this as part of every migration. A scheduler that starts would wait for hours before
it can stand by; two that start would build the same; and a pooler ends statements that take long.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

import psycopg
from psycopg import sql

from atelier.migrate import FOLDER, to_come

_INDEX = re.compile(r"^CREATE INDEX (\w+) ON (\w+) (.*?);", re.MULTILINE | re.DOTALL)
_LONGEST_NAME = 63  # PostgreSQL cuts longer ones

_PARTITIONS = """
SELECT child.relname FROM pg_partitioned_table p
JOIN pg_inherits i ON i.inhparent = p.partrelid JOIN pg_class child ON child.oid = i.inhrelid
WHERE p.partrelid = to_regclass(%s) ORDER BY child.relname DESC
"""
_IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"


def prebuild(dsn: str) -> list[str]:
    """Build what is missing; the names of the indexes built. `dsn`: of PostgreSQL itself, not of a
    pooler.

    Raises:
        psycopg.Error: the database refused; what was built stays.
    """
    built = []
    with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as connection:
        connection.execute("SET statement_timeout = 0")
        connection.execute("SET lock_timeout = 0")
        wanted = list(_wanted(to_come(connection)))
        for index, table, what in wanted:
            for (partition,) in connection.execute(_PARTITIONS, (table,)).fetchall():
                name = f"{partition}_{index.removeprefix(f'{table}_')}"[:_LONGEST_NAME]
                if _build(connection, name, partition, what):
                    built.append(name)
    return built


def _wanted(names: list[str]) -> Iterator[tuple[str, str, str]]:
    """Index, table, and all that follows its name, of each that these migrations make."""
    for name in names:
        yield from _INDEX.findall((FOLDER / name).read_text())


def _build(
    connection: psycopg.Connection[tuple[str]], name: str, partition: str, what: str
) -> bool:
    """Whether it was missing, and could be built."""
    found = connection.execute(_IS_VALID, (name,)).fetchone()
    if found and found[0]:
        return False
    index = sql.Identifier(name)
    if found:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(index))
    create = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} ").format(index, sql.Identifier(partition))
    try:
        connection.execute(create + sql.SQL(what))  # of our own files
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
        return False  # the column is to come, so it is small; or retention dropped the table
    return True


if __name__ == "__main__":
    for made in prebuild(os.environ["ATELIER_POSTGRES_DSN"]):
        sys.stdout.write(f"built {made}\n")
