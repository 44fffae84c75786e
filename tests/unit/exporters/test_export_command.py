"""The commands' answers when there is nothing to work on."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from exporters.__main__ import app


def test_verify_wants_a_card(tmp_path: Path):
    result = CliRunner().invoke(app, ["verify", "--repository", str(tmp_path)])

    assert result.exit_code == 1
    assert "no model cards" in result.output


def test_export_wants_a_checkpoint_and_publishes_nothing(tmp_path: Path):
    pytest.importorskip("diffusers", reason="the export extra is not installed")
    arguments = ["export", str(tmp_path / "no"), "--name", "x", "--repository", str(tmp_path / "r")]

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 1
    assert "no model_index.json" in result.output
    assert not (tmp_path / "r").exists()
