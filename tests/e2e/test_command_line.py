"""`atelier` as a person uses it, against a running stack and by itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atelier.v1 import generation_pb2 as pb
from exporters.tiny.checker import measure
from tests.e2e.conftest import Stack, wait_until
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


# Runs the command that follows, which hears Ctrl-C: a shell that starts the tests in its background
# has told them to ignore it. (A preexec_fn would run in a fork of a process with gRPC's threads.)
HEARS_CTRL_C = [
    sys.executable, "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    " os.execv(sys.argv[1], sys.argv[1:])",
]  # fmt: skip


def test_ctrl_c_cancels_and_says_so(stack: Stack, tmp_path: Path) -> None:
    command = [*HEARS_CTRL_C, sys.executable, "-m", "atelier.cli", "generate", "a slow star",
               "--steps", "100", "--n", "8", "--state-dir", str(stack.state_dir)]  # fmt: skip
    asked = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    page = pb.ListGenerationsRequest(page_size=1)

    def newest() -> pb.Generation:
        found = stack.generations.ListGenerations(page, timeout=10).generations
        return found[0] if found else pb.Generation()

    wait_until(lambda: newest().image.prompt == "a slow star", 30)
    time.sleep(0.2)  # until it has heard of it too
    asked.send_signal(signal.SIGINT)
    said, _ = asked.communicate(timeout=30)
    assert asked.returncode == 130
    assert f"the generation {newest().id} is cancelled on the server" in said
    assert said.rstrip().endswith("cancelled")
    again = atelier("get", newest().id, "--state-dir", str(stack.state_dir), cwd=tmp_path)
    assert again.returncode == 1
    assert f"the generation {newest().id} cancelled" in again.stdout + again.stderr


def test_generate_outlives_the_gateway(stack: Stack, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atelier.cli", "generate", "a patient star", "--steps", "100",
               "--n", "8", "--state-dir", str(stack.state_dir), "-o", "out"]  # fmt: skip
    asked = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    page = pb.ListGenerationsRequest(page_size=2)

    def patient() -> list[str]:
        found = stack.generations.ListGenerations(page, timeout=10).generations
        return [one.id for one in found if one.image.prompt == "a patient star"]

    wait_until(lambda: bool(patient()), 30)
    stack.kill("gateway")
    said, _ = asked.communicate(timeout=60)
    assert asked.returncode == 0, said
    assert "the gateway is away" in said
    assert len(list((tmp_path / "out").glob("*.png"))) == 8
    wait_until(stack.ready, 30)
    assert len(patient()) == 1


def test_ps_and_doctor(stack: Stack, tmp_path: Path) -> None:
    state = ("--state-dir", str(stack.state_dir))
    listed = atelier("ps", *state, cwd=tmp_path)
    assert listed.returncode == 0
    for part in ("postgres", "s3", "triton-0", "scheduler", "agent", "gateway"):
        assert part in listed.stdout
    examined = atelier("doctor", *state, cwd=tmp_path)
    assert examined.returncode == 0, examined.stdout


@pytest.mark.parametrize("part", ["scheduler", "gateway", "agent", "webhooks"])
def test_each_part_of_ours_can_be_looked_into(stack: Stack, tmp_path: Path, part: str) -> None:
    told = atelier("debug", part, "--state-dir", str(stack.state_dir), cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"process {stack.part(part)['pid']}")
    assert "asyncio tasks" in told.stdout and stack.key not in told.stdout


def test_lines_of_the_agent_tell_whose_they_are(stack: Stack) -> None:
    generation_id = stack.create("a red circle on a blue background", steps=2)
    stack.wait(generation_id)
    lines = [line for line in stack.log_of("agent").splitlines() if generation_id in line]
    assert len(lines) >= 2
    for line in map(json.loads, lines):
        assert (line["generation_id"], line["tenant"]) == (generation_id, "local")
        assert line["trace_id"] == generation_id.replace("-", "")


def test_what_is_not_ours_names_what_can_look_into_it(stack: Stack, tmp_path: Path) -> None:
    told = atelier("debug", "s3", "--state-dir", str(stack.state_dir), cwd=tmp_path)
    assert told.returncode == 1 and "none of scheduler" in told.stderr


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
