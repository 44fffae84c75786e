"""The store, leadership and migrations through pgbouncer in transaction mode: the same tests, with
fewer connections to PostgreSQL than there are clients.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from tests.integration.test_days import (  # noqa: F401 - collected here, over the dsn below
    aged,
    history,
    test_days_past_the_retention_go_and_their_keys_with_them,
    test_fifty_at_once_on_two_sides_of_midnight_make_one,
    test_history_is_read_as_what_is_new,
    test_who_reads_for_long_delays_the_drop_and_nobody_else,
)
from tests.integration.test_leadership import (  # noqa: F401 - as above
    lease,
    store,
    test_a_lease_that_ran_out_and_was_not_taken_is_renewed,
    test_a_write_that_waits_for_who_takes_over_is_refused,
    test_of_many_at_once_one_leads,
    test_one_leads_and_the_next_waits_for_its_lease,
    test_taking_over_waits_for_a_write_under_way,
)
from tests.support.generations import BY, RESULT, generation

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="no pgbouncer here: apt-get install pgbouncer"
)

SERVERS = 4  # fewer than the store's eight
CONFIGURATION = """
[databases]
* = host={socket_folder} user={user} connect_query='{settings}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {servers}
ignore_startup_parameters = options
"""
# As docs/store.md tells: what the pooler does not hand on from a client.
SETTINGS = (
    "SET timezone = UTC; SET statement_timeout = 5000; SET lock_timeout = 2000;"
    " SET idle_in_transaction_session_timeout = 5000"
)


@pytest.fixture(scope="module")
def pooler(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running pgbouncer's URI."""
    assert PGBOUNCER is not None
    folder = str(conninfo_to_dict(postgres)["host"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = tmp_path_factory.mktemp("pgbouncer") / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(
            socket_folder=folder, user="postgres", settings=SETTINGS, port=port, servers=SERVERS
        )
    )
    owner = Path(folder).stat().st_uid  # it will not run as root, nor find the socket as another
    for path in (configuration, *configuration.parents[:3]):
        if path.stat().st_uid == os.getuid() and owner != os.getuid():
            path.chmod(path.stat().st_mode | 0o055)
    process = subprocess.Popen(
        [PGBOUNCER, "-q", str(configuration)],
        user=owner if os.getuid() == 0 else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    uri = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    for _ in range(100):
        try:
            psycopg.connect(uri, connect_timeout=2).close()
            break
        except psycopg.OperationalError:
            assert process.poll() is None, "pgbouncer has ended"
            time.sleep(0.1)
    yield uri
    process.terminate()
    process.wait(10)


@pytest.fixture
def dsn(pooler: str, dsn: str) -> str:
    """The test's database, through the pooler."""
    return make_conninfo(pooler, dbname=str(conninfo_to_dict(dsn)["dbname"]))


async def test_many_clients_on_few_connections(dsn: str) -> None:
    assert migrate(dsn) and migrate(dsn) == []
    async with GenerationStore(dsn) as first, GenerationStore(dsn) as second:

        async def one(store: GenerationStore) -> None:
            [g] = await store.insert([generation(request_id="r")])
            [new] = await store.insert([generation()])
            claimed = await store.claim(new.id, "d0")
            assert claimed and claimed.lease_token
            assert await store.publish(new.id, claimed.lease_token, [RESULT], BY)
            assert await store.read("local", g.id) == g

        await asyncio.gather(*(one(store) for store in (first, second) for _ in range(40)))
        assert len(await first.unfinished()) == 1


async def test_the_pooler_s_connections_have_the_limits_of_ours(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for name, value in {"TimeZone": "UTC", "statement_timeout": "5s", "lock_timeout": "2s",
                            "idle_in_transaction_session_timeout": "5s"}.items():  # fmt: skip
            assert connection.execute(f"SHOW {name}").fetchone() == (value,)  # type: ignore[call-overload]
