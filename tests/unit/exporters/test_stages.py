"""Stages are made once, half of one never counts, and a full disk is told in words."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from exporters.errors import ExportError
from exporters.stages import Stages


class Maker:
    """Writes a file, and counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        (folder / "model").write_text("weights")
        return {"bytes": 7}


def test_a_stage_is_made_once_for_the_same_inputs(tmp_path: Path) -> None:
    maker, stages = Maker(), Stages(tmp_path / "kept")

    folder, result, found = stages.run("onnx", {"a": 1}, maker)
    again = Stages(tmp_path / "kept").run("onnx", {"a": 1}, maker)

    assert (result, found) == ({"bytes": 7}, False)
    assert again == (folder, {"bytes": 7}, True)
    assert (folder / "model").read_text() == "weights"
    assert maker.calls == 1


def test_other_inputs_are_another_stage(tmp_path: Path) -> None:
    maker, stages = Maker(), Stages(tmp_path)
    first, _, _ = stages.run("onnx", {"a": 1}, maker)
    second, _, _ = stages.run("onnx", {"a": 2}, maker)
    assert first != second
    assert maker.calls == 2


def test_what_failed_half_way_leaves_nothing_and_is_made_anew(tmp_path: Path) -> None:
    def fails(folder: Path) -> dict[str, Any]:
        (folder / "model").write_text("half")
        raise RuntimeError("stop")

    stages = Stages(tmp_path)
    with pytest.raises(RuntimeError):
        stages.run("onnx", {}, fails)
    assert list(tmp_path.iterdir()) == []
    assert stages.run("onnx", {}, Maker())[2] is False


def test_a_process_that_was_killed_leaves_what_never_counts(tmp_path: Path) -> None:
    stages, maker = Stages(tmp_path), Maker()
    folder, _, _ = stages.run("onnx", {}, maker)
    folder.rename(tmp_path / f".{folder.name}.partial")
    again, _, found = stages.run("onnx", {}, maker)
    assert (again, found, maker.calls) == (folder, False, 2)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path: Path) -> None:
    def fills(folder: Path) -> dict[str, Any]:
        (folder / "model").symlink_to("/dev/full")
        (folder / "model").write_bytes(b"0" * 100_000)
        return {}

    full = r"partial/model: the disk is full .* run the same command again"
    with pytest.raises(ExportError, match=full):
        Stages(tmp_path).run("onnx", {}, fills)
    assert list(tmp_path.iterdir()) == []


def test_so_is_one_that_a_library_wraps_in_an_error_of_its_own(tmp_path: Path) -> None:
    def fills(folder: Path) -> dict[str, Any]:
        (folder / "model.onnx.data").touch()
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not save") from error

    with pytest.raises(ExportError, match=r"model\.onnx\.data: the disk is full"):
        Stages(tmp_path).run("onnx", {}, fills)
