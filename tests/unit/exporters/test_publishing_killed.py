"""A process killed while it publishes: no reader sees a card whose files are not there."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from exporters.publishing import building, recover
from exporters.repository import cards, hashes, problems
from tests.unit.exporters.test_repository import built_model, put

MOVES = 11  # the old card, four folders out and four in, the new card, the note

# Kills itself in the place of its k-th rename or removal.
KILLED = """
import os, signal, sys
from pathlib import Path
from exporters.publishing import publish

left = int(sys.argv[4])

def counted(real):
    def move(*args, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)
    return move

Path.rename, Path.unlink = counted(Path.rename), counted(Path.unlink)
publish(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


@pytest.fixture(autouse=True)
def _no_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for graphs have none."""
    monkeypatch.setattr("exporters.repository._signature_problems", lambda *_: iter(()))


def killed_at(move: int, root: Path) -> tuple[Path, Path]:
    """A repository whose model was being replaced, and what was beside it."""
    repository, stages = root / "triton_repo", root / ".export-one"
    put(repository, content="first")
    built = stages / ".ready-x"
    built.mkdir(parents=True)
    built_model(repository, built, content="second")
    words = [str(built), str(repository), "one.toml", str(move)]
    process = subprocess.run([sys.executable, "-c", KILLED, *words], check=False)
    assert process.returncode == -signal.SIGKILL
    return repository, stages


@pytest.mark.parametrize("move", [0, 1, 2, 5, MOVES - 2, MOVES - 1])
def test_a_kill_at_any_move_leaves_no_card_without_its_files_and_is_mended(
    move: int, tmp_path: Path
) -> None:
    repository, stages = killed_at(move, tmp_path)
    found = problems(repository)  # folders without a card there may be
    assert [problem for problem in found if problem.startswith("one.toml")] == []

    assert recover(repository) == ["one.toml"]

    assert problems(repository) == []
    (card,) = cards(repository).values()
    text = repository / card.components.denoiser / "1" / "model.onnx"
    assert text.read_text() == "second denoiser"
    assert not stages.exists()
    assert recover(repository) == []


def test_an_export_that_goes_on_keeps_its_stages(tmp_path: Path) -> None:
    repository, stages = killed_at(3, tmp_path)
    (stages / "onnx-denoiser-12").mkdir()

    assert recover(repository, keep=stages) == ["one.toml"]

    assert [path.name for path in stages.iterdir()] == ["onnx-denoiser-12"]


def test_what_another_process_is_publishing_is_left_to_it(tmp_path: Path) -> None:
    repository, stages = killed_at(3, tmp_path)
    before = hashes(tmp_path, (".export-one", "triton_repo"))
    with (stages / ".ready-x" / ".publishing").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert recover(repository) == []
    assert hashes(tmp_path, (".export-one", "triton_repo")) == before


def test_another_repository_in_the_same_folder_is_not_touched(tmp_path: Path) -> None:
    repository, _ = killed_at(3, tmp_path)
    other = shutil.copytree(repository, tmp_path / "other")
    before = hashes(tmp_path, ("other",))

    assert recover(other) == []
    assert hashes(tmp_path, ("other",)) == before


def test_what_was_interrupted_before_it_moved_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), building(tmp_path) as built:
        (built / "half").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
