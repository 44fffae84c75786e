"""`atelier` as a person uses it, against a running stack and by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atelier.v1 import generation_pb2 as pb
from exporters.tiny.checker import measure
from tests.e2e.conftest import Stack
from tests.e2e.test_pictures import pixels

pytestmark = pytest.mark.real


def atelier(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atelier.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=180)


def test_generate_writes_the_picture(stack: Stack, tmp_path: Path) -> None:
    state = ("--state-dir", str(stack.state_dir))
    done = atelier(
        "generate", "an orange square on a black background", *state,
        "--seed", "3", "--steps", "12", "--n", "2", "-o", "pictures/", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    made = sorted((tmp_path / "pictures").glob("*.png"))
    assert len(made) == 2
    seen = measure(pixels(made[0].read_bytes()))
    assert seen and (seen.colour, seen.shape, seen.background) == ("orange", "square", "black")


def test_generate_says_what_is_wrong_with_the_input(stack: Stack, tmp_path: Path) -> None:
    state = ("--state-dir", str(stack.state_dir))
    done = atelier("generate", "a red ring", *state, "--steps", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "steps" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_ps_and_doctor(stack: Stack, tmp_path: Path) -> None:
    state = ("--state-dir", str(stack.state_dir))
    listed = atelier("ps", *state, cwd=tmp_path)
    assert listed.returncode == 0
    for part in ("postgres", "s3", "triton-0", "scheduler", "agent", "gateway"):
        assert part in listed.stdout
    examined = atelier("doctor", *state, cwd=tmp_path)
    assert examined.returncode == 0, examined.stdout


def test_a_second_up_in_the_same_folder_is_refused(stack: Stack, tmp_path: Path) -> None:
    done = atelier("up", "--state-dir", str(stack.state_dir), cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr


def test_once_draws_and_ends_and_a_second_run_keeps_its_data(tmp_path: Path) -> None:
    done = atelier("up", "--once", "a purple ring on a white background", "--state-dir", "s",
                   cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    second = Stack(tmp_path / "s")
    second.start()
    try:
        page = second.generations.ListGenerations(pb.ListGenerationsRequest(), timeout=10)
        [kept] = page.generations
        assert kept.image.prompt == "a purple ring on a white background"
        again = pb.GetGenerationRequest(id=kept.id, inline_results=True)
        assert second.generations.GetGeneration(again, timeout=10).generation.results[0].inline_data
    finally:
        assert second.stop() == 0
