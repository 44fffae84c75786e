"""Keeping parts alive, whatever breaks around them: a part here is a Python that sleeps."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.recycle import end_process
from atelier.embedded import logs, supervisor
from atelier.embedded.part import Command, NotReadyError, Part, PartError
from atelier.embedded.supervisor import Backoff, Hooks, Keeper, StartError, Supervisor, log_tail

FULL = OSError(28, "No space left on device")


class Sleeper(Part):
    """Says a line and sleeps. What it is told to raise, it raises."""

    def __init__(self, name: str = "sleeper", needs: tuple[str, ...] = (), code: str = "") -> None:
        self.name, self.needs, self.address = name, needs, ""
        self.code = code or "import time; print('zzz', flush=True); time.sleep(60)"
        self.prepare_fails: list[Exception] = []
        self.answers = True

    def prepare(self) -> None:
        if self.prepare_fails:
            raise self.prepare_fails.pop(0)

    def command(self) -> Command:
        return Command((sys.executable, "-S", "-c", self.code), Path("/"), dict(os.environ))

    def probe(self) -> None:
        if not self.answers:
            raise NotReadyError("no answer")


class Heard:
    """Takes what is told, until it `breaks`: then every hook raises."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.breaks = False
        self.hooks = Hooks(changed=self._changed, notice=self._notice)

    def _changed(self) -> None:
        if self.breaks:
            raise FULL

    def _notice(self, line: str) -> None:
        if self.breaks:
            raise FULL
        self.notices.append(line)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_SECONDS", 0.01)


@pytest.fixture
def heard() -> Heard:
    return Heard()


Start = Callable[..., Supervisor]


@pytest.fixture
async def supervise(tmp_path: Path, heard: Heard) -> AsyncIterator[Start]:
    made: list[Supervisor] = []

    def make(*parts: Part) -> Supervisor:
        made.append(Supervisor(parts, tmp_path, heard.hooks))
        return made[-1]

    yield make
    for one in made:
        await one.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(0.01)


def pid(keeper: Keeper) -> int:
    found = keeper.record().pid
    assert found is not None
    return found


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


async def test_a_part_that_dies_comes_back_though_nobody_can_be_told(
    supervise: Start, heard: Heard
) -> None:
    """A full disk: the record cannot be written, and the terminal is gone as well."""
    stack = supervise(Sleeper())
    await stack.start()
    keeper = stack.keepers["sleeper"]
    heard.breaks = True
    os.kill(pid(keeper), signal.SIGKILL)
    await until(lambda: keeper.restarts == 1 and keeper.state == "ready")


async def test_a_part_is_named_in_its_file_for_who_may_have_to_end_it(
    supervise: Start, tmp_path: Path
) -> None:
    part = Sleeper()
    part.pid_file = tmp_path / "pid"
    stack = supervise(part)
    await stack.start()
    keeper = stack.keepers["sleeper"]
    before = part.pid_file.read_text()
    assert before.split()[0] == str(pid(keeper))
    await end_process(part.pid_file)  # as the agent does
    await until(lambda: keeper.restarts == 1 and keeper.state == "ready")
    assert part.pid_file.read_text().split()[0] == str(pid(keeper)) != before.split()[0]


async def test_stop_ends_every_part_though_nobody_can_be_told(
    supervise: Start, heard: Heard
) -> None:
    stack = supervise(Sleeper())
    await stack.start()
    process = pid(stack.keepers["sleeper"])
    heard.breaks = True
    await stack.stop()
    assert gone(process)


async def test_a_restart_that_fails_for_want_of_room_is_tried_again(
    supervise: Start, heard: Heard
) -> None:
    part = Sleeper()
    stack = supervise(part)
    await stack.start()
    keeper = stack.keepers["sleeper"]
    part.prepare_fails = [FULL, FULL]
    os.kill(pid(keeper), signal.SIGKILL)
    await until(lambda: keeper.restarts == 3 and keeper.state == "ready")
    assert sum("No space left on device" in line for line in heard.notices) == 2
    assert "sleeper is back" in heard.notices[-1]


async def test_a_first_start_that_fails_is_told(supervise: Start) -> None:
    part = Sleeper()
    part.prepare_fails = [FULL]
    stack = supervise(part)
    with pytest.raises(StartError, match="No space left on device"):
        await stack.start()
    assert stack.keepers["sleeper"].state == "failed"


async def test_a_part_that_ends_or_never_answers_is_told(supervise: Start) -> None:
    with pytest.raises(PartError, match=r"its process ended \(exit status 3\)") as raised:
        dying = Sleeper(code="import sys; print('too old'); sys.exit(3)")
        dying.answers = False
        await supervise(dying).start()
    assert "too old" in log_tail(raised.value)
    mute = Sleeper("mute")
    mute.answers, mute.start_seconds = False, 0.2
    with pytest.raises(PartError, match=r"not ready after 0\.2 s: no answer"):
        await supervise(mute).start()


async def test_parts_start_after_what_they_need_and_stop_before_it(supervise: Start) -> None:
    below, above = Sleeper("below"), Sleeper("above", needs=("below",))
    below.answers = False
    stack = supervise(above, below)
    starting = asyncio.create_task(stack.start())
    await until(lambda: stack.keepers["below"].record().pid is not None)
    assert stack.keepers["above"].state == "waiting"
    below.answers = True
    await starting

    first, second = pid(stack.keepers["above"]), pid(stack.keepers["below"])
    await stack.keepers["above"].stop()
    assert gone(first)
    assert not gone(second)
    await stack.stop()
    assert gone(second)


async def test_a_log_that_grows_is_turned_over_while_its_part_runs(
    supervise: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(logs, "LARGE_BYTES", 10_000)
    code = "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.0005)"
    stack = supervise(Sleeper(code=code))
    await stack.start()
    log = stack.keepers["sleeper"].log
    await until(log.with_suffix(".log.1").exists)
    await until(lambda: b"xxx" in log.read_bytes()[:10])  # it goes on at the beginning


def test_the_pause_doubles_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_SECONDS", 0.5)
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.after(4.0) == 8.0  # two of six failures made up for
    assert backoff.after(10.0) == 0.5
    assert [backoff.after(2.0) for _ in range(100)] == [0.5] * 100
