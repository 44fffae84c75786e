"""`atelier debug`: a process that works, one that is stuck, one of which nothing answers, and what
is none of ours."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atelier import debug
from atelier.cli.__main__ import app
from atelier.debug_looks import memory
from atelier.embedded.processes import start_ticks
from atelier.embedded.state import PartRecord, StackRecord, StateDir
from tests.support.processes import scheduler_process, until_stopped

NOBODY = 65_534
SECRET = "this-is-nobodys-business"
PROGRAM = f"""
import asyncio, sys, time
from atelier import debug

async def waits_for_good(key):
    await asyncio.Event().wait()

def spins():
    time.sleep(60)

async def main():
    key = "{SECRET}"
    asyncio.create_task(waits_for_good(key), name="a waiter")
    asyncio.create_task(waits_for_good(key), name="another")
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    if sys.argv[1] == "stuck":
        spins()
    kept = []
    while True:
        kept.append(bytes(100_000))
        await asyncio.sleep(0.05)

debug.run(main())
"""


@contextmanager
def part(folder: Path, how: str) -> Iterator[tuple[StateDir, int]]:
    """A program, as a stack that has it as its only part, `toy`."""
    state = StateDir(folder / "state")
    state.create()
    log = state.logs / "toy.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, stderr=errors
        )
    try:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        toy = PartRecord(
            "toy", process.pid, start_ticks(process.pid), "", str(log), "ready", restarts=0
        )
        state.write(StackRecord(os.getpid(), start_ticks(os.getpid()), "", 0, (toy,)))
        yield state, process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(*words: str) -> str:
    result = CliRunner().invoke(app, ["debug", *words])
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*words: str) -> str:
    result = CliRunner().invoke(app, ["debug", *words])
    assert result.exit_code == 1, result.output
    return result.output


def test_stacks_and_tasks_are_told_and_no_values(tmp_path: Path) -> None:
    with part(tmp_path, "works") as (state, pid):
        told = ask("toy", "--state-dir", str(state.root))
        assert ask(str(pid)).startswith(f"process {pid}")
    assert "thread MainThread" in told
    assert "2 x a waiter, another" in told and "waits_for_good" in told
    assert "BUSY" not in told and SECRET not in told


def test_memory_names_the_line_that_allocates(tmp_path: Path) -> None:
    with part(tmp_path, "works") as (state, _):
        told = ask("toy", "--state-dir", str(state.root), "--memory", "1")
    place = next(n for n, line in enumerate(PROGRAM.splitlines(), 1) if "kept.append" in line)
    [most] = [line for line in told.splitlines() if line.endswith(f"<string>:{place}")]
    assert float(most.split()[0]) > 500  # KiB
    assert "objects that the collector knows" in told and SECRET not in told


def test_a_stuck_loop_is_seen_from_beside_it(tmp_path: Path) -> None:
    with part(tmp_path, "stuck") as (state, _):
        told = ask("toy", "--state-dir", str(state.root))
    assert "THE LOOP IS BUSY" in told and "spins" in told
    assert "2 x a waiter, another" in told


def test_of_one_that_answers_nobody_the_signal_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atelier.cli.debug.PATIENCE_SECONDS", 0.2)
    with part(tmp_path, "works") as (state, pid):
        os.kill(pid, signal.SIGSTOP)
        until_stopped(pid)
        monkeypatch.setattr("atelier.cli.debug.time.sleep", lambda _: wake(pid, state))
        told = ask("toy", "--state-dir", str(state.root))
    assert "does not answer" in told and "most recent call first" in told
    assert SECRET not in told


def wake(pid: int, state: StateDir) -> None:
    """It goes on, and what waited for it is told."""
    os.kill(pid, signal.SIGCONT)
    log = state.logs / "toy.log"
    while b"most recent call first" not in log.read_bytes():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_stranger_is_not_answered(tmp_path: Path) -> None:
    with part(tmp_path, "works") as (_, pid):
        os.seteuid(NOBODY)
        try:
            told = refusal(str(pid))
        finally:
            os.seteuid(0)
        assert "only its own user and root" in told and "thread" not in told
        assert "thread MainThread" in ask(str(pid))


def test_what_cannot_be_asked_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        assert "py-spy" in refusal(str(other.pid))
        assert other.poll() is None
        other.kill()
    assert "there is no process" in refusal(str(other.pid))
    where = ("--state-dir", str(tmp_path / "state"))
    assert "nothing ever ran" in refusal("gateway", *where)
    with part(tmp_path, "works") as (state, _):
        assert "say toy" in refusal("gateway", "--state-dir", str(state.root))
    assert "does not run" in refusal("toy", *where)


async def test_a_scheduler_can_be_asked(dsn: str, tmp_path: Path) -> None:
    with scheduler_process(dsn, tmp_path) as scheduler:
        told = await asyncio.to_thread(ask, str(scheduler.pid))
    assert "asyncio tasks" in told and "leadership" in told
    assert dsn not in told


def test_a_look_at_memory_without_tracing_is_a_count() -> None:
    told = memory(0)
    assert "dict" in told and "allocated" not in told


def test_what_cannot_be_looked_into_works_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def works() -> int:
        return 5

    monkeypatch.setattr(sys, "stderr", None)  # as a process that was started without one
    assert debug.run(works()) == 5
