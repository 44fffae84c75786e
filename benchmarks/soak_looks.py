"""What a process and a database hold, as the kernel and PostgreSQL tell it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psycopg

from atelier.embedded.processes import family

# Tables that are written all the time; those of days are counted with the one they are days of.
TABLES = ("generations", "generation_events", "webhook_deliveries", "webhook_lanes", "leader")
_BLOAT = """
    SELECT t.name,
           coalesce(sum(s.n_live_tup), 0), coalesce(sum(s.n_dead_tup), 0),
           coalesce(sum(pg_table_size(s.relid)), 0), coalesce(sum(pg_indexes_size(s.relid)), 0)
    FROM unnest(%s::text[]) AS t(name)
    LEFT JOIN pg_stat_user_tables s
      ON s.relname = t.name OR s.relname ~ ('^' || t.name || '_([0-9]{8}|old|before)')
    GROUP BY t.name
"""


def of_process(pid: int) -> dict[str, float]:
    """Of a process and all that it started: memory of its own ("private", bytes: no pages of files,
    none that it shares), all that is resident (bytes), descriptors and threads."""
    found = {"private": 0.0, "resident": 0.0, "descriptors": 0.0, "threads": 0.0}
    for one in family(pid):
        with suppress(OSError):  # it has just ended
            folder = Path(f"/proc/{one}")
            status = dict(
                line.split(":", 1) for line in (folder / "status").read_text().splitlines()
            )
            found["private"] += 1024 * int(status["RssAnon"].split()[0])
            found["resident"] += 1024 * int(status["VmRSS"].split()[0])
            found["threads"] += int(status["Threads"])
            found["descriptors"] += len(os.listdir(folder / "fd"))
    return found


def shared_bytes(pids: list[int]) -> float:
    """Of the files in /dev/shm that any of these processes, or what they started, has mapped."""
    files: dict[str, int] = {}
    for one in (child for pid in pids for child in family(pid)):
        with suppress(OSError):
            for line in Path(f"/proc/{one}/maps").read_text().splitlines():
                name = line.split(maxsplit=5)[-1].removesuffix(" (deleted)")
                if name.startswith("/dev/shm/"):
                    low, high = (int(end, 16) for end in line.split(maxsplit=1)[0].split("-"))
                    files[name] = max(files.get(name, 0), high - low)
    return float(sum(files.values()))


def of_database(dsn: str) -> dict[str, dict[str, float]]:
    """Of each table that is written all the time: rows, dead rows, bytes without and of indexes."""
    names = ("rows", "dead", "table", "indexes")
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        rows = connection.execute(_BLOAT, (list(TABLES),)).fetchall()
    return {str(name): dict(zip(names, map(float, counts), strict=True)) for name, *counts in rows}
