"""Previews through real processes: pictures that come to be what the generation comes to."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from atelier.v1 import generation_pb2 as pb
from tests.e2e.conftest import Stack, create

pytestmark = pytest.mark.real
LEAST_PSNR = 13.0  # dB of the last preview: what a linear map of tiny-image's latents comes to


def followed(
    stack: Stack, request: pb.CreateGenerationRequest
) -> tuple[dict[int, bytes], pb.Generation]:
    """Each preview that was seen, by its step; the generation at its end."""
    seen: dict[int, bytes] = {}
    asked = pb.GenerateRequest(create=request, inline_results=True)
    for answer in stack.generations.Generate(asked, timeout=120):
        now = answer.generation.progress
        if now.preview:
            assert now.preview_step <= now.step
            seen[now.preview_step] = now.preview
    assert answer.generation.state == pb.GENERATION_STATE_SUCCEEDED, answer
    return seen, answer.generation


def likeness(preview: bytes, final: Image.Image) -> float:
    """PSNR in dB, of both averaged to a pixel for each place of the latents."""
    one, other = (
        np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BOX), dtype=float)
        for image in (Image.open(io.BytesIO(preview)), final)
    )
    return float(10 * np.log10(255**2 / ((one - other) ** 2).mean()))


def test_previews_come_nearer_and_nearer_to_the_picture(stack: Stack) -> None:
    """Without colours in the prompt the model must make up its mind on the way."""
    request = create("a ring on a background", seed=9, steps=60, sampler="euler_ancestral")
    request.image.preview_every = 3
    seen, done = followed(stack, request)
    assert len(seen) > 2 and all(step % 3 == 0 for step in seen)
    assert max(map(len, seen.values())) < 2**14
    final = Image.open(io.BytesIO(done.results[0].inline_data))
    first, last = likeness(seen[min(seen)], final), likeness(seen[max(seen)], final)
    assert last > LEAST_PSNR and last > first + 1, (first, last)
    assert not done.progress.preview  # what is over has none


def test_a_preview_shows_this_picture_and_no_other(stack: Stack) -> None:
    finals, previews = [], []
    for prompt in ("a red circle on a white background", "a yellow cross on a blue background"):
        request = create(prompt, seed=6, steps=60)
        request.image.preview_every = 1
        seen, done = followed(stack, request)
        previews.append(seen[max(seen)])
        finals.append(Image.open(io.BytesIO(done.results[0].inline_data)))
    for own, other in ((0, 1), (1, 0)):
        near, far = (likeness(previews[own], finals[one]) for one in (own, other))
        assert near > LEAST_PSNR and near > far + 4, (near, far)


def test_a_clip_s_previews_are_of_its_first_frame(stack: Stack) -> None:
    spec = pb.VideoSpec(prompt="a red circle moving left on a blue background", seed=3, steps=40)
    spec.preview_every = 1
    seen, done = followed(stack, pb.CreateGenerationRequest(model="tiny-video", video=spec))
    with av.open(io.BytesIO(done.results[0].inline_data)) as container:
        first = next(container.decode(video=0)).to_image()
    assert likeness(seen[max(seen)], first) > LEAST_PSNR


def test_nobody_gets_what_nobody_asked_for(stack: Stack) -> None:
    seen, _ = followed(stack, create("a red circle on a white background", steps=20))
    assert not seen


def test_a_terminal_shows_them_above_the_bar(stack: Stack, tmp_path: Path) -> None:
    words = ["generate", "a red ring on a white background", "--previews", "--steps", "60"]
    command = [sys.executable, "-m", "atelier.cli", *words, "--state-dir", str(stack.state_dir)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = _all_of(ours)
    assert process.wait(60) == 0, shown
    frames = shown.split("denoising")
    assert any("▀" in part for part in frames[:-1]), "no preview beside the bar"
    assert "seed" in frames[-1]  # the file's line, behind the last of the bar


def _all_of(terminal: int) -> str:
    """What was written to a terminal until nobody has it open."""
    taken = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: closed
            break
        taken += piece
    os.close(terminal)
    return taken.decode(errors="replace")
