"""Which gateway a command speaks to, and what it shows there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atelier.api_keys import ID_BYTES, SECRET_BYTES, new_key, read_key
from atelier.cli import where
from atelier.cli.__main__ import app
from atelier.cli.problems import ProblemError
from atelier.cli.where import Shown, gateway_of
from atelier.embedded import processes
from atelier.embedded.state import StackRecord, StateDir

HERE, THERE = "127.0.0.1:5001", "127.0.0.1:5002"
OTHER = new_key(bytes([1] * ID_BYTES), bytes([1] * SECRET_BYTES))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDir]:
    """Of a stack that runs: this process says so."""
    for name in ("ATELIER_API_KEY", "ATELIER_API_KEY_FILE", "ATELIER_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    state = StateDir(tmp_path / "state")
    state.create()
    state.make_key()
    pid = os.getpid()
    state.write(StackRecord(pid, processes.start_ticks(pid), HERE, 1, ()))
    token = where.shown.set(Shown())
    yield state
    where.shown.reset(token)


def test_a_stack_s_key_is_its_user_s_alone_and_stays(state: StateDir) -> None:
    assert stat.S_IMODE(state.key.stat().st_mode) == 0o600
    assert read_key(state.read_key())
    before = state.read_key()
    assert not state.make_key() and state.read_key() == before


@pytest.mark.parametrize("address", [None, "", HERE])
def test_the_stack_of_the_folder_is_shown_its_own_key(
    state: StateDir, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_API_KEY", OTHER)  # another house's
    found = gateway_of(address, state.root)
    assert (found.address, found.key) == (HERE, state.read_key())
    assert found.option.startswith("--state-dir ")
    assert state.read_key() not in repr(found)


def test_nobody_else_is_shown_it(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway_of(THERE, state.root).key == ""
    monkeypatch.setenv("ATELIER_API_KEY", f" {OTHER}\n")
    assert gateway_of(THERE, state.root).key == OTHER


def test_a_file_that_is_named_goes_first(
    state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text(OTHER + "\n")
    monkeypatch.setenv("ATELIER_API_KEY_FILE", str(tmp_path / "mine"))
    assert gateway_of(None, state.root).key == state.read_key()
    assert gateway_of(THERE, state.root).key == OTHER
    where.shown.set(Shown(key_file=tmp_path / "mine"))
    assert gateway_of(None, state.root).key == OTHER


@pytest.mark.parametrize("text", ["", OTHER[:-1], "secret"])
def test_what_is_no_key_is_not_sent_and_not_told(
    state: StateDir, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text(text)
    where.shown.set(Shown(key_file=tmp_path / "mine"))
    with pytest.raises(ProblemError, match="is no API key") as refused:
        gateway_of(THERE, state.root)
    assert not text or text not in str(refused.value)


def test_another_machine_is_spoken_to_by_tls_only(state: StateDir, tmp_path: Path) -> None:
    assert gateway_of(THERE, state.root).credentials is None
    for address in ("gateway.example.org:443", "10.0.0.1:443", "[2001:db8::1]:443"):
        assert gateway_of(address, state.root).credentials is not None
    where.shown.set(Shown(authority=tmp_path / "none.pem"))
    with pytest.raises(ProblemError, match="--ca-file: cannot read"):
        gateway_of(THERE, state.root)


def test_an_operator_s_key_is_drawn_once_and_not_told(tmp_path: Path) -> None:
    file = tmp_path / "operators"
    drawn = CliRunner().invoke(app, ["keys", "draw", str(file)])
    text = file.read_text()
    assert read_key(text.strip()) and text.strip() not in drawn.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = CliRunner().invoke(app, ["keys", "draw", str(file)])
    assert again.exit_code == 2 and "File exists" in again.output
    assert file.read_text() == text
