import json
import os
import stat
from pathlib import Path

import pytest

from atelier.embedded import processes
from atelier.embedded.state import SECRETS, InUseError, PartRecord, StackRecord, StateDir


def record(pid: int, started: int | None) -> StackRecord:
    part = PartRecord("s3", pid, started, "127.0.0.1:1", "/logs/s3.log", "ready", 2)
    return StackRecord(pid, started, "127.0.0.1:2", 1, (part,))


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.create()
    return state


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_looks_inside(state: StateDir) -> None:
    state.secrets()
    assert mode(state.root) == 0o700
    assert mode(state.root / "secrets.json") == 0o600


def test_secrets_are_drawn_once(state: StateDir) -> None:
    first = state.secrets()
    assert set(first) == set(SECRETS)
    assert len(set(first.values())) == len(SECRETS)
    assert state.secrets() == first


def test_the_record_comes_back(state: StateDir) -> None:
    here = record(os.getpid(), processes.start_ticks(os.getpid()))
    state.write(here)
    assert state.read() == here
    assert here.is_alive()
    written = json.loads((state.root / "processes.json").read_text())
    assert written["gateway"] == "127.0.0.1:2"
    assert written["parts"][0]["name"] == "s3"
    assert {"pid", "address", "log", "state", "restarts"} <= set(written["parts"][0])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": [{"name": 1}]}'])
def test_a_record_that_makes_no_sense_is_none(state: StateDir, text: str) -> None:
    (state.root / "processes.json").write_text(text)
    assert state.read() is None


def test_a_pid_of_somebody_else_is_not_taken_for_ours(state: StateDir) -> None:
    """Our own pid, but another start time: had it been believed, this test would end here."""
    state.write(record(os.getpid(), 1))
    assert state.end_strays() == []


def test_two_at_once_are_refused(state: StateDir) -> None:
    with (
        state.lock(),
        pytest.raises(InUseError, match="another `atelier up`"),
        StateDir(state.root).lock(),
    ):
        pass
    with state.lock():
        pass
