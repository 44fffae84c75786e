"""What `doctor` says of a part that runs, and is not well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.cli.doctor import _part
from atelier.embedded import processes
from atelier.embedded.part import Command, NotReadyError, Part
from atelier.embedded.state import PartRecord


class Mute(Part):
    name, address = "gateway", "127.0.0.1:1"

    def command(self) -> Command:
        return Command((), Path())

    def probe(self) -> None:
        raise NotReadyError("no answer")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[PartRecord]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = processes.start_ticks(process.pid)
        log = str(tmp_path / "gateway.log")
        yield PartRecord("gateway", process.pid, started, "127.0.0.1:1", log, "ready", 0)
        process.kill()


def test_a_stopped_part_can_go_on(running: PartRecord) -> None:
    assert running.pid
    os.kill(running.pid, signal.SIGSTOP)
    os.waitpid(running.pid, os.WUNTRACED)
    finding = _part(Mute(), running, [])
    assert (finding.mark, finding.what) == ("wrong", f"pid {running.pid} is stopped")
    assert f"kill -CONT {running.pid}" in finding.advice


def test_a_part_that_does_not_answer_can_be_killed(running: PartRecord) -> None:
    assert f"kill {running.pid}, and `up` starts it again" in _part(Mute(), running, []).advice


def test_what_it_needs_comes_first(running: PartRecord) -> None:
    assert _part(Mute(), running, ["scheduler"]).advice == "mend scheduler first"
