"""Pictures that a person brings, and what is cut out of the results, through real processes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import urllib3
from PIL import Image

from atelier.v1 import generation_pb2 as pb
from exporters.tiny.checker import measure
from tests.e2e.conftest import Stack
from tests.e2e.test_command_line import atelier
from tests.e2e.test_pictures import pixels
from tests.support.hostile import HOSTILE, saved

pytestmark = pytest.mark.real
FROM, TO = "a red circle on a blue background", "a green circle on a blue background"


@pytest.fixture
def state(stack: Stack) -> tuple[str, str]:
    return "--state-dir", str(stack.state_dir)


def test_generate_starts_from_a_file(stack: Stack, state: tuple[str, str], tmp_path: Path) -> None:
    [before] = stack.draw(FROM, seed=4)
    # Twice as large and wider than it is high: it is scaled, and cut around the middle.
    wide = Image.new("RGB", (256, 128), "white")
    wide.paste(Image.fromarray(pixels(before.inline_data)).resize((128, 128)), (64, 0))
    wide.save(tmp_path / "mine.png")
    words = ("generate", TO, *state, "--seed", "5", "--init-image", "mine.png")
    done = atelier(*words, "--strength", "0.1", "-o", "near.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    near = pixels((tmp_path / "near.png").read_bytes())
    off = np.abs(near.astype(int) - pixels(before.inline_data)).mean()
    assert off < 20, off
    data = (tmp_path / "mine.png").read_bytes()
    key = f"inputs/local/{hashlib.sha256(data).hexdigest()}.png"
    words = ("generate", TO, *state, "--seed", "5", "--init-image", key)
    done = atelier(*words, "--strength", "1", "-o", "far.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    seen = measure(pixels((tmp_path / "far.png").read_bytes()))
    assert seen and (seen.colour, seen.background) == ("green", "blue")


def test_a_result_is_the_start_of_another(stack: Stack) -> None:
    [before] = stack.draw(FROM, seed=4)
    init = pb.InputImage(object_key=before.object_key)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    [after] = stack.draw(
        TO, seed=6, init_image=init, mask_image=pb.InputImage(data=saved(mask, "PNG"))
    )
    kept = np.abs(pixels(after.inline_data).astype(int) - pixels(before.inline_data))[:, :24]
    assert kept.max() <= 8


def test_cut_out_sized_and_with_a_small_copy(
    stack: Stack, state: tuple[str, str], tmp_path: Path
) -> None:
    words = ("generate", FROM, *state, "--seed", "4", "--crop", "40x20+12+22", "--resize", "80x")
    done = atelier(*words, "--thumbnail", "16", "--n", "2", "-o", "a.jpg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    sizes = {}
    for path in tmp_path.glob("*.jpg"):
        with Image.open(path) as image:
            sizes[path.name] = (image.format, image.size)
    assert sizes == {
        "a-0.jpg": ("JPEG", (80, 40)), "a-0.small.jpg": ("JPEG", (16, 8)),
        "a-1.jpg": ("JPEG", (80, 40)), "a-1.small.jpg": ("JPEG", (16, 8)),
    }  # fmt: skip
    assert "80x40" in done.stdout and "and a-1.small.jpg" in done.stdout


def test_a_video_has_a_small_picture_of_its_first_frame(
    stack: Stack, state: tuple[str, str], tmp_path: Path
) -> None:
    done = atelier(
        "generate", "a red circle moving left on a blue background", *state, "--model",
        "tiny-video", "--thumbnail", "32", "-o", "a.webm", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    with Image.open(tmp_path / "a.small.jpg") as image:
        assert (image.format, max(image.size)) == ("JPEG", 32)


def test_what_is_wrong_is_told_by_option(
    stack: Stack, state: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(HOSTILE["bomb of pixels"])
    done = atelier(
        "generate", FROM, *state, "--init-image", "bad.png", "--strength", "0.01", "--crop",
        "90x9+0+0", "--mask", "results/elsewhere/x.png", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert [line.split(":")[0] for line in sorted(told)] == [
        "--crop", "--init-image", "--mask", "--strength",
    ]  # fmt: skip
    assert "30000x30000" in done.stderr and "elsewhere" not in done.stderr


def test_get_keeps_the_right_name(stack: Stack, state: tuple[str, str], tmp_path: Path) -> None:
    output = pb.ImageOutput(format=pb.IMAGE_FORMAT_WEBP, thumbnail_size=16)
    made = stack.create(FROM, seed=4, output=output)
    done = atelier("get", made, *state, "-o", "a.png", cwd=tmp_path)
    assert done.returncode == 1
    assert "image/webp" in done.stderr and "try --out a.webp" in done.stderr
    assert not list(tmp_path.glob("a*"))
    done = atelier("get", made, *state, "-o", "a.webp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("a*")} == {"a.webp", "a.small.webp"}
    generation = stack.wait(made)
    small = urllib3.request("GET", generation.results[0].thumbnail_url).data
    assert (tmp_path / "a.small.webp").read_bytes() == small
