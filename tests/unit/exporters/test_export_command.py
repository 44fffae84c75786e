"""The commands' answers when there is nothing to work on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exporters.__main__ import app


def test_verify_wants_a_card(tmp_path: Path):
    result = CliRunner().invoke(app, ["verify", "--repository", str(tmp_path)])

    assert result.exit_code == 1
    assert "no model cards" in result.output


@pytest.mark.parametrize(
    "words", [["models", "list"], ["models", "verify"], ["models", "remove", "x"], ["profile", "x"]]
)
def test_a_repository_that_is_not_there_is_told(words: list[str], tmp_path: Path):
    result = CliRunner().invoke(app, [*words, "--repository", str(tmp_path / "no")])

    assert result.exit_code == 1
    assert f"--repository {tmp_path / 'no'}: no such folder" in result.output


def test_a_repository_without_models_has_nothing_to_list(tmp_path: Path):
    result = CliRunner().invoke(app, ["models", "list", "--repository", str(tmp_path)])

    assert result.exit_code == 1
    assert f"{tmp_path}: no model cards" in result.output


def test_help_says_the_command_that_people_type():
    command = [sys.executable, "-m", "atelier.cli", "export", "--help"]

    result = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "Usage: atelier export [OPTIONS]" in result.stdout


def test_export_wants_a_checkpoint_and_publishes_nothing(tmp_path: Path):
    pytest.importorskip("diffusers", reason="the export extra is not installed")
    arguments = ["export", str(tmp_path / "no"), "--name", "x", "--repository", str(tmp_path / "r")]

    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 1
    assert "model_index.json: missing" in result.output
    assert not (tmp_path / "r").exists()


def test_ending_the_command_ends_the_export(tmp_path: Path):
    """It waits at a pipe in the index's place, where nobody may read once it is told to end."""
    pytest.importorskip("diffusers", reason="the export extra is not installed")
    os.mkfifo(index := tmp_path / "model_index.json")
    command = [sys.executable, "-m", "atelier.cli", "export", str(tmp_path), "--name", "x"]
    # A pipe opens for writing once somebody reads it.
    with subprocess.Popen(command) as process, index.open("wb", buffering=0) as pipe:
        process.terminate()
        process.wait()
        with pytest.raises(BrokenPipeError):
            pipe.write(b"{}")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--engine", "onyx"], "say one of onnx, tensorrt, tensorrt-rtx"),
        (["--shapes", "512by512"], "say 512x768, or 512 for a square"),
        (["--parts", "9"], "less than or equal to 8"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_once(words: list[str], why: str):
    result = CliRunner().invoke(app, ["export", "x", "--name", "x", *words], env={"COLUMNS": "200"})

    assert result.exit_code == 2
    assert why in result.output


def test_the_product_command_hands_its_words_on(tmp_path: Path):
    command = [sys.executable, "-m", "atelier.cli", "models", "remove", "gone"]

    result = subprocess.run(
        [*command, "--repository", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert result.returncode == 1
    assert "no model gone; there are: none" in result.stdout
