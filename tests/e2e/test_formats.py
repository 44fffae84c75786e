"""Every format of pictures through real processes, and what is not possible by name."""

from __future__ import annotations

import io
from pathlib import Path

import grpc
import numpy as np
import pytest
import urllib3
from PIL import Image

from atelier.v1 import generation_pb2 as pb
from exporters.tiny.checker import measure
from tests.e2e.conftest import Stack, create
from tests.e2e.test_command_line import atelier

pytestmark = pytest.mark.real
PROMPT = "a green ring on a white background"


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_a_picture_and_its_small_copy_come_in_the_format_asked_for(stack: Stack, name: str) -> None:
    output = pb.ImageOutput(format=pb.ImageFormat.Value(f"IMAGE_FORMAT_{name}"), thumbnail_size=16)
    [result] = stack.draw(PROMPT, seed=4, output=output)
    assert result.content_type == f"image/{name.lower()}"
    image = Image.open(io.BytesIO(result.inline_data))
    assert image.format == name
    seen = measure(np.asarray(image.convert("RGB")))
    assert seen and (seen.shape, seen.colour, seen.background) == ("ring", "green", "white")
    small = urllib3.request("GET", result.thumbnail_url)
    assert small.headers["content-type"] == result.content_type
    assert Image.open(io.BytesIO(small.data)).size == (16, 16)


def test_what_a_format_has_not_is_refused(stack: Stack) -> None:
    request = create(PROMPT, output=pb.ImageOutput(quality=90, thumbnail_size=4096))
    with pytest.raises(grpc.RpcError) as refused:
        stack.generations.CreateGeneration(request, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = str(dict(refused.value.trailing_metadata()))  # type: ignore[attr-defined]
    assert "image.output.quality" in details and "image.output.thumbnail_size" in details


def test_generate_writes_what_the_file_s_name_says(stack: Stack, tmp_path: Path) -> None:
    words = ("--state-dir", str(stack.state_dir), "--seed", "4", "--no-metadata", "--quality", "80")
    done = atelier("generate", PROMPT, *words, "-o", "ring.jpg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    with Image.open(tmp_path / "ring.jpg") as image:
        assert image.format == "JPEG" and not dict(image.getexif())
    done = atelier("generate", PROMPT, *words, "-o", "ring.png", cwd=tmp_path)
    assert done.returncode == 2 and "--quality: a PNG loses nothing" in done.stderr
