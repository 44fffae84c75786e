"""From prompt to film through real processes: the clips show what the prompts say."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest
import urllib3

from atelier.v1 import generation_pb2 as pb
from atelier.v1 import model_pb2
from exporters.tiny.video_checker import read_clip
from exporters.tiny.video_scenes import Clip, clip_of, prompt_of_clip
from tests.e2e.conftest import Stack, create
from tests.e2e.test_command_line import atelier

pytestmark = pytest.mark.real
MODEL = "tiny-video"
CLIPS = [
    Clip("circle", "red", "blue", "left"),
    Clip("square", "green", "white", "right"),
    Clip("triangle", "yellow", "purple", "up"),
    Clip("cross", "white", "black", "down"),
    Clip("ring", "black", "orange", "still"),
]


def film(prompt: str, **video: Any) -> pb.CreateGenerationRequest:
    return pb.CreateGenerationRequest(model=MODEL, video=pb.VideoSpec(prompt=prompt, **video))


def ask(stack: Stack, prompt: str, **video: Any) -> str:
    answer = stack.generations.CreateGeneration(film(prompt, **video), timeout=20)
    return str(answer.generation.id)


def frames(container: av.container.InputContainer) -> np.ndarray:  # type: ignore[type-arg]
    return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_clips_at_once_beside_pictures_each_show_what_they_say(stack: Stack) -> None:
    picture = stack.create("a red ring on a white background")
    wanted = {ask(stack, prompt_of_clip(clip), seed=i): clip for i, clip in enumerate(CLIPS)}
    for generation_id, clip in wanted.items():
        done = stack.wait(generation_id)
        assert done.state == pb.GENERATION_STATE_SUCCEEDED, done
        assert (done.video.frames, done.video.frames_per_second) == (8, 8)
        [result] = done.results
        with av.open(io.BytesIO(result.inline_data)) as container:
            reading = read_clip(frames(container))
        assert reading is not None and reading.clip == clip, (clip, reading)
    assert stack.wait(picture).state == pb.GENERATION_STATE_SUCCEEDED


@pytest.mark.parametrize(
    ("format_", "content_type", "codec"),
    [(pb.VIDEO_FORMAT_MP4, "video/mp4", "h264"), (pb.VIDEO_FORMAT_WEBM, "video/webm", "vp9")],
)
def test_a_file_is_what_its_result_says(
    stack: Stack, format_: pb.VideoFormat.ValueType, content_type: str, codec: str
) -> None:
    prompt = "a blue cross moving right on a yellow background"
    output = pb.VideoOutput(format=format_)
    done = stack.wait(ask(stack, prompt, seed=5, frames_per_second=4, output=output))
    [result] = done.results
    answer = urllib3.request("GET", result.url)
    assert answer.headers["content-type"] == result.content_type == content_type
    assert answer.data == result.inline_data and len(answer.data) == result.size_bytes
    assert hashlib.sha256(answer.data).hexdigest() == result.sha256
    assert (result.frames, result.frames_per_second, result.duration_seconds) == (8, 4.0, 2.0)
    assert (result.codec, result.width, result.height) == (codec, 64, 64)
    with av.open(io.BytesIO(answer.data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == (codec, 4)
        assert container.duration == 2_000_000
        assert frames(container).shape == (8, 64, 64, 3)
        told = {key.lower(): value for key, value in container.metadata.items()}["comment"]
    assert (json.loads(told)["prompt"], json.loads(told)["seed"]) == (prompt, 5)


def test_the_same_seed_gives_the_same_bytes(stack: Stack) -> None:
    one, two, other = (
        stack.wait(ask(stack, "a red ring on a white background", seed=seed, steps=5)).results[0]
        for seed in (1, 1, 2)
    )
    assert one.sha256 == two.sha256 != other.sha256


def test_what_a_model_cannot_do_is_refused_by_field(stack: Stack) -> None:
    model = stack.models.GetModel(model_pb2.GetModelRequest(name=MODEL), timeout=10).model
    assert model.kind == model_pb2.MODEL_KIND_VIDEO
    limits = {limit.field: (limit.minimum, limit.maximum) for limit in model.limits}
    assert limits["frames"] == (8, 8) and "count" not in limits
    for request, field in (
        (film("a red ring", frames=9, guidance=9.0), "video.frames"),
        (film("a red ring", frames_per_second=61), "video.frames_per_second"),
        (create("a red ring", width=8), "image.width"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stack.generations.CreateGeneration(request, timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert field in str(dict(refused.value.trailing_metadata()))  # type: ignore[attr-defined]


def test_generate_writes_the_film(stack: Stack, tmp_path: Path) -> None:
    prompt = "a red circle moving left on a blue background"
    where = ("--state-dir", str(stack.state_dir), "--model", MODEL)
    done = atelier("generate", prompt, *where, "--seed", "3", "-o", "films/", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    [made] = (tmp_path / "films").iterdir()
    assert made.suffix == ".mp4" and "1 s of h264" in done.stdout
    with av.open(made) as container:
        reading = read_clip(frames(container))
    assert reading is not None and reading.clip == clip_of(prompt)
    done = atelier("generate", prompt, *where, "--format", "webm", "-o", "films/", cwd=tmp_path)
    assert done.returncode == 0 and len(list((tmp_path / "films").glob("*.webm"))) == 1
    done = atelier("generate", prompt, *where, "--n", "2", cwd=tmp_path)
    assert done.returncode == 2 and "--n: tiny-video makes videos" in done.stderr
