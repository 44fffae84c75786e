"""A video is checked as a picture is: against its model's card, every fault by its field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from atelier.catalog import Catalog
from atelier.errors import InvalidArgumentError
from atelier.generation import Generation
from atelier.output import VideoFormat, VideoOutput
from atelier.spec import VideoSpec
from atelier.translate import generation_from, generation_to
from atelier.v1 import generation_pb2 as pb
from gateway.requests import asked_of
from tests.support.cards import toy_card, video_card


def resolve(request: pb.CreateGenerationRequest) -> Generation:
    return asked_of(
        request,
        catalog=Catalog({"toy": toy_card(), "clips": video_card()}),
        tenant="local",
        new_id=lambda: "019f3c3a-0000-7000-8000-000000000000",
        new_seed=lambda: 99,
        now=datetime(2026, 1, 1, tzinfo=UTC),
    ).checked()


def request(model: str = "clips", **video: Any) -> pb.CreateGenerationRequest:
    spec = pb.VideoSpec(**{"prompt": "a red circle moving left", **video})
    return pb.CreateGenerationRequest(model=model, video=spec)


def faults(r: pb.CreateGenerationRequest) -> dict[str, str]:
    with pytest.raises(InvalidArgumentError) as refused:
        resolve(r)
    return {violation.field: violation.description for violation in refused.value.violations}


def test_what_is_not_given_is_the_model_s_default() -> None:
    spec = resolve(request()).spec
    assert isinstance(spec, VideoSpec)
    assert (spec.frames, spec.frames_per_second, spec.steps, spec.seed) == (8, 8, 20, 99)
    assert spec.output == VideoOutput(VideoFormat.MP4, omit_metadata=False)
    assert (spec.shape, spec.count) == ("64x64x8", 1)


def test_a_preset_stands_in_for_steps_and_sampler() -> None:
    r = request(frames_per_second=24)
    r.preset = "draft"
    spec = resolve(r).spec
    assert isinstance(spec, VideoSpec)
    assert (spec.steps, spec.sampler, spec.frames_per_second) == (8, "euler", 24)


def test_all_bad_fields_are_named_at_once_with_what_would_do() -> None:
    bad = faults(
        request(
            prompt=" ", width=65, steps=0, guidance=float("nan"), frames=9, frames_per_second=0,
            seed=-1, sampler="magic", output=pb.VideoOutput(format=77),  # type: ignore[arg-type]
        )
    )  # fmt: skip
    fields = ("prompt", "width", "steps", "guidance", "frames", "frames_per_second", "seed",
              "sampler", "output.format")  # fmt: skip
    assert set(bad) == {f"video.{field}" for field in fields}
    assert bad["video.frames"] == "must be 8 frames, and nothing else: leave it out; got 9"
    assert "MP4, WEBM" in bad["video.output.format"]


def test_pictures_and_videos_are_not_taken_for_each_other() -> None:
    assert faults(request(model="toy")) == {"spec": "toy makes images: fill in image"}
    image = pb.CreateGenerationRequest(model="clips", image=pb.ImageSpec(prompt="a ring"))
    assert faults(image) == {"spec": "clips makes videos: fill in video"}


def test_the_agent_reads_what_the_gateway_wrote() -> None:
    output = pb.VideoOutput(format=pb.VIDEO_FORMAT_WEBM, omit_metadata=True)
    generation = resolve(request(frames_per_second=12, guidance=2.5, output=output))
    assert generation_from(generation_to(generation)).spec == generation.spec
