"""Files of models in the node's memory: real files, the kernel's own word on them."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent import host_memory, pages
from agent.commands import Commands
from agent.host_memory import HostMemory, ModelFiles
from agent.messages import hello_to, report_to
from agent.outbox import Outbox
from agent.pages import Mapping, all_in_memory
from atelier.v1 import agent_pb2 as pb

SIZE = 1 << 20
COMPONENTS = {"red": ("text", "red"), "blue": ("text", "blue"), "green": ("green",)}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("text", "red", "blue", "green"):
        (tmp_path / name / "1").mkdir(parents=True)
        with (tmp_path / name / "1" / "weights").open("wb") as file:
            file.write(os.urandom(SIZE + 5))
            file.flush()
            os.fsync(file.fileno())  # dirty pages cannot be given up
        (tmp_path / name / "empty").touch()
    return tmp_path


def give_up(repository: Path, *names: str) -> None:
    """The kernel takes these files' memory back, where nobody locked it."""
    for name in names:
        descriptor = os.open(repository / name / "1" / "weights", os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def is_there(repository: Path, name: str) -> bool:
    return all_in_memory([repository / name / "1" / "weights"])


@asynccontextmanager
async def running(repository: Path, capacity: int) -> AsyncIterator[HostMemory]:
    host = HostMemory(capacity, ModelFiles(repository), COMPONENTS)
    task = asyncio.create_task(host.run())
    yield host
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.01)


def test_the_kernel_tells_what_is_there(repository: Path) -> None:
    give_up(repository, "red")
    mapping = Mapping(repository / "red" / "1" / "weights")
    assert mapping.resident_bytes() == 0
    assert mapping.read(0) == mapping.bytes == SIZE + 5
    assert mapping.resident_bytes() == mapping.bytes
    mapping.close()
    assert is_there(repository, "red")
    give_up(repository, "red")
    assert not is_there(repository, "red")


def test_what_cannot_be_known_is_not_claimed(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of others' files the kernel says that all of them is there, whatever is."""
    monkeypatch.setattr(pages.os, "geteuid", lambda: 54_321)
    monkeypatch.setattr(pages.os, "access", lambda *_: False)
    assert not is_there(repository, "red")
    assert not all_in_memory([repository / "nothing"])
    assert not all_in_memory([])


async def test_what_is_wanted_is_read_and_told(repository: Path) -> None:
    give_up(repository, "text", "red", "blue", "green")
    async with running(repository, 10 * SIZE) as host:
        assert host.facts().models == ()
        host.keep(["red"])
        await until(lambda: host.facts().models == ("red",))
        assert host.facts().resident_bytes == 2 * (SIZE + 5)
        assert is_there(repository, "text")
        assert not is_there(repository, "blue")
        host.keep(["blue", "red"])  # what they share is held once
        await until(lambda: set(host.facts().models) == {"blue", "red"})
        assert host.facts().resident_bytes == 3 * (SIZE + 5)
        host.keep(["green", "unheard-of"])
        await until(lambda: host.facts().models == ("green",))
        assert host.facts().resident_bytes == SIZE + 5


async def test_the_scheduler_says_what_and_hears_of_it(repository: Path) -> None:
    async with running(repository, 10 * SIZE) as host:
        commands = Commands({}, Outbox(), host)
        keep = pb.KeepInHostMemory(models=["green"], epoch=3)
        commands.obey(pb.ConnectResponse(keep_in_host_memory=keep))
        await until(lambda: host.facts().models == ("green",))
        stale = pb.KeepInHostMemory(models=["red"], epoch=2)
        commands.obey(pb.ConnectResponse(keep_in_host_memory=stale))
        report = report_to([], host.facts()).device_report
        assert (list(report.host_models), report.host_resident_bytes) == (["green"], SIZE + 5)
        hello = hello_to("n0", [], [], 3, host.facts()).hello
        assert (hello.host_memory_bytes, list(hello.host_models)) == (10 * SIZE, ["green"])


async def test_what_does_not_fit_is_left_out(repository: Path) -> None:
    async with running(repository, 3 * SIZE) as host:  # two files, and not three
        host.keep(["red", "blue", "green"])
        await until(lambda: host.facts().models == ("red",))
        host.keep(["green", "red", "blue"])
        await until(lambda: host.facts().models == ("green",))


async def test_a_lock_holds_against_the_kernel(repository: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] < 4 * SIZE and os.geteuid():
        pytest.skip("RLIMIT_MEMLOCK is too low to lock anything")
    async with running(repository, 10 * SIZE) as host:
        host.keep(["red"])
        await until(lambda: host.facts().models == ("red",))
        give_up(repository, "red")
        assert is_there(repository, "red")
        host.keep([])
        await until(lambda: host.facts().resident_bytes == 0)
        give_up(repository, "red")
        assert not is_there(repository, "red")


async def test_without_locks_it_is_read_again_when_it_was_given_up(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mapping, "lock", lambda self: False)
    monkeypatch.setattr(host_memory, "LOOK_SECONDS", 0.05)
    async with running(repository, 10 * SIZE) as host:
        host.keep(["green"])
        await until(lambda: host.facts().models == ("green",))
        give_up(repository, "green")
        await until(lambda: is_there(repository, "green"))


async def test_a_file_that_was_replaced_is_held_anew(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "LOOK_SECONDS", 0.05)
    async with running(repository, 10 * SIZE) as host:
        host.keep(["green"])
        await until(lambda: host.facts().models == ("green",))
        other = repository / "other"
        other.write_bytes(os.urandom(SIZE * 2))
        other.replace(repository / "green" / "1" / "weights")
        await until(lambda: host.facts().resident_bytes == 2 * SIZE)
        assert host.facts().models == ("green",)


async def test_files_that_cannot_be_looked_at_cost_only_their_own_model(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, of = ModelFiles(repository), ModelFiles.of

    def refused(self: ModelFiles, triton_models: Sequence[str]) -> list[Path]:
        if "red" in triton_models:
            raise PermissionError(13, "Permission denied", "red")
        return of(self, triton_models)

    monkeypatch.setattr(ModelFiles, "of", refused)  # root may look at everything
    assert not await files.in_memory(["red"])
    async with running(repository, 10 * SIZE) as host:
        host.keep(["red", "green"])
        await until(lambda: host.facts().models == ("green",))
