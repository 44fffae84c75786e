"""Finished generations by the million, made inside PostgreSQL: a history for bench_store.py."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import psycopg
from rich.console import Console

from atelier.generation import Provenance, Result
from atelier.spec import ImageSpec

DAYS, SPAN = 30, 5  # today the last; in a table, as with a retention of 30 days
TENANTS = 100
PROMPT = "a lighthouse at dusk, film grain"
SPEC = ImageSpec(PROMPT, "", 768, 512, 28, 6.5, 7, 1, "dpmpp")
RESULT = Result(0, "results/0/k.png", "image/png", 500_000, 768, 512, "ab" * 32, 7)
BY = Provenance("sha256:0", "tensorrt", "dpmpp", "node-3/gpu-1")

# Spread over the day as a steady stream; like what is made today, and so to its present end.
_DAY = """
INSERT INTO generations_{name} (id, tenant, model, spec, state, priority, attempt, device, labels,
    request_id, request_hash, create_time, start_time, finish_time, results, provenance)
SELECT (lpad(to_hex((extract(epoch FROM made) * 1000)::bigint), 12, '0') || '7'
        || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid,
       't' || n %% {tenants}, 'model-' || n %% 7, %(spec)s, 'SUCCEEDED', 'NORMAL', 1, 'gpu-0',
       '{{}}', hash::uuid::text, hash || hash, made, made + '3 s', made + '9 s', %(results)s, %(by)s
FROM (SELECT n, md5(n || {seed!r}) AS hash,
             %(since)s + n * (%(until)s::timestamptz - %(since)s) / {rows} AS made
      FROM generate_series(0, {rows} - 1) n) g
"""
_EVENTS = """
INSERT INTO generation_events_{name} (generation_id, time, event, attempt, detail)
SELECT id, create_time, event, 1, detail FROM generations_{name},
    (VALUES ('submit', '{{}}'::jsonb), ('claim', '{{"device": "gpu-0"}}'), ('publish', '{{}}'))
    AS e(event, detail)
"""
_FILLING = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "'1GB'",
            "maintenance_work_mem": "'512MB'"}  # fmt: skip


def fill(dsn: str, finished: int, console: Console) -> None:
    """Put about that many into a migrated database where nothing has happened yet."""
    began = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name, value in _FILLING.items():
            connection.execute(f"ALTER SYSTEM SET {name} = {value}")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("SET session_replication_role = replica")  # keys are made at the end
        _empty(connection)
        for ago in range(DAYS - SPAN, -1, -SPAN):
            name, since, until = _make_table(connection, ago)
            arguments = {
                "spec": json.dumps(asdict(SPEC)), "results": json.dumps([asdict(RESULT)]),
                "by": json.dumps(asdict(BY)), "since": since, "until": until,
            }  # fmt: skip
            rows = finished * SPAN // DAYS
            fields = {"name": name, "rows": rows, "tenants": TENANTS, "seed": name}
            connection.execute(_DAY.format(**fields), arguments)
            connection.execute(_EVENTS.format(**fields))
            connection.execute(
                f"VACUUM (FREEZE, ANALYZE) generations_{name}, generation_events_{name}"
            )
            console.print(f"{DAYS - ago} of {DAYS} days, {time.monotonic() - began:.0f} s")
        _make_keys(connection)
        connection.execute("SELECT make_days(2, 5)")
        for name in _FILLING:
            connection.execute(f"ALTER SYSTEM RESET {name}")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CHECKPOINT")
    console.print(f"filled in {time.monotonic() - began:.0f} s")


def _empty(connection: psycopg.Connection) -> None:
    for (name,) in connection.execute("SELECT name FROM generation_days").fetchall():
        connection.execute(f"DROP TABLE generations_{name}, generation_events_{name}")
    connection.execute("DELETE FROM generation_days")


def _make_table(connection: psycopg.Connection, ago: int) -> tuple[str, object, object]:
    """Its name, and the time that its generations are spread over; its last day was so long ago."""
    [row] = connection.execute(
        "SELECT day_name(until), until - make_interval(hours => 24 * %s),"
        " least(until, clock_timestamp()), until"
        " FROM (SELECT date_trunc('day', now(), 'UTC') + make_interval(hours => 24 - 24 * %s)"
        " AS until)",
        (SPAN, ago),
    ).fetchall()
    name, since, until, end = row
    connection.execute("SELECT make_day(%s, %s)", (since, end))
    if ago:  # nothing is updated there any more
        connection.execute(f"ALTER TABLE generations_{name} SET (fillfactor = 100)")
    return name, since, until


def _make_keys(connection: psycopg.Connection) -> None:
    """As many as there are generations; indexes last, which is several times faster."""
    connection.execute("ALTER TABLE request_keys DROP CONSTRAINT request_keys_pkey")
    connection.execute("DROP INDEX request_keys_by_generation")
    connection.execute("INSERT INTO request_keys SELECT tenant, request_id, id FROM generations")
    connection.execute("ALTER TABLE request_keys ADD PRIMARY KEY (tenant, request_id)")
    connection.execute("CREATE INDEX request_keys_by_generation ON request_keys (generation_id)")
    connection.execute("VACUUM (FREEZE, ANALYZE) request_keys")
