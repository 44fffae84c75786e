"""The embedded parts, for real: they come back where they were, with what they had; and they end
with the one who started them, however it ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path

import psycopg
import pytest
from minio import Minio

from atelier.embedded.part import PartError
from atelier.embedded.postgres import Postgres
from atelier.embedded.s3 import BUCKET, ObjectStore
from atelier.embedded.stack import Stack, StackOptions, build
from atelier.embedded.state import StackRecord, StateDir
from atelier.embedded.supervisor import Hooks, Supervisor, log_tail

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

PATIENCE_SECONDS = 40.0
INFRASTRUCTURE = ("postgres", "s3", "triton-0")


class Running:
    """A stack of the parts that are not ours, and all that its supervisor said."""

    def __init__(self, state: StateDir) -> None:
        self.notices: list[str] = []
        self.stack: Stack = build(state, StackOptions())
        parts = [part for part in self.stack.parts if part.name in INFRASTRUCTURE]
        self.supervisor = Supervisor(parts, state.logs, Hooks(notice=self.notices.append))

    def pid(self, name: str) -> int:
        pid = self.supervisor.keepers[name].record().pid
        assert pid is not None
        return pid

    def postgres(self) -> Postgres:
        return next(part for part in self.stack.parts if isinstance(part, Postgres))

    def store(self) -> Minio:
        part = next(part for part in self.stack.parts if isinstance(part, ObjectStore))
        return Minio(
            endpoint=part.address,
            access_key=part.access_key,
            secret_key=part.secret_key,
            secure=False,
            region="us-east-1",
        )

    def write(self) -> None:
        with psycopg.connect(self.postgres().dsn) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        self.store().put_object(
            bucket_name=BUCKET, object_name="kept", data=BytesIO(b"42"), length=2
        )

    def assert_kept(self) -> None:
        with psycopg.connect(self.postgres().dsn) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchall() == [(42,)]
        answer = self.store().get_object(bucket_name=BUCKET, object_name="kept")
        assert answer.read() == b"42"
        answer.close()
        answer.release_conn()


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.create()
    return state


@pytest.fixture
async def running(state: StateDir) -> AsyncIterator[Running]:
    running = Running(state)
    try:
        await running.supervisor.start()
        yield running
    finally:
        await running.supervisor.stop()


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_each_part_that_is_killed_comes_back_as_it_was(running: Running) -> None:
    running.write()
    addresses = [part.address for part in running.stack.parts]
    for name in INFRASTRUCTURE:
        keeper = running.supervisor.keepers[name]
        before = running.pid(name)
        os.kill(before, signal.SIGKILL)
        await until(lambda k=keeper: k.restarts == 1 and k.state == "ready")  # type: ignore[misc]
        assert running.pid(name) != before
        assert any(f"{name} ended (killed by SIGKILL)" in line for line in running.notices)
    assert [part.address for part in running.stack.parts] == addresses
    running.assert_kept()


async def test_a_second_run_keeps_addresses_and_data(state: StateDir) -> None:
    first = Running(state)
    await first.supervisor.start()
    first.write()
    await first.supervisor.stop()
    second = Running(state)
    await second.supervisor.start()
    try:
        assert [p.address for p in second.stack.parts] == [p.address for p in first.stack.parts]
        second.assert_kept()
    finally:
        await second.supervisor.stop()


async def test_a_part_that_cannot_start_says_why(state: StateDir) -> None:
    (state.root / "postgres" / "data").mkdir(parents=True)
    (state.root / "postgres" / "data" / "PG_VERSION").write_text("9.0\n")
    running = Running(state)
    with pytest.raises(PartError, match="postgres did not start: its process ended") as raised:
        await running.supervisor.start()
    assert "postgresql.conf" in log_tail(raised.value) or "version" in log_tail(raised.value)
    await running.supervisor.stop()
    assert all(k.record().pid is None for k in running.supervisor.keepers.values())


@pytest.fixture
def up(state: StateDir) -> Iterator[subprocess.Popen[str]]:
    """`atelier up`, serving."""
    command = [sys.executable, "-m", "atelier.cli", "up", "--state-dir", str(state.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C stops everything" in line:
                break
        yield process
        process.kill()


def record(state: StateDir) -> StackRecord:
    found = state.read()
    assert found is not None
    return found


def test_ctrl_c_stops_every_part(state: StateDir, up: subprocess.Popen[str]) -> None:
    before = record(state)
    assert before.is_alive()
    assert all(part.is_alive() and part.state == "ready" for part in before.parts)
    assert all(Path(part.log).exists() for part in before.parts)
    up.send_signal(signal.SIGINT)
    assert up.wait(PATIENCE_SECONDS) == 0
    assert not any(part.is_alive() for part in before.parts)
    written = json.loads((state.root / "processes.json").read_text())
    assert {part["state"] for part in written["parts"]} == {"stopped"}


async def test_no_part_outlives_a_killed_up(state: StateDir, up: subprocess.Popen[str]) -> None:
    before = record(state)
    up.kill()
    await until(lambda: not any(part.is_alive() for part in before.parts))
