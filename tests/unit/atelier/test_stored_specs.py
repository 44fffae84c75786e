"""A spec comes back from the database as it was, and so does one of an older house."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from atelier.output import Crop, ImageFormat, ImageOutput, Resize, VideoFormat, VideoOutput
from atelier.spec import ImageSpec, Spec, VideoSpec, stored_spec
from atelier.translate import generation_to, spec_from
from atelier.v1 import generation_pb2 as pb
from tests.support.generations import SPEC, generation

SPECS: list[Spec] = [
    SPEC,
    ImageSpec("p", "n", 64, 64, 4, 1.5, 7, 2, "ddim", ImageOutput(ImageFormat.AVIF, 50, 32, True)),
    ImageSpec(
        "p", "n", 64, 64, 8, 1.5, 7, 2, "ddim",
        ImageOutput(crop=Crop(1, 2, 30, 40), resize=Resize(16, 0)),
        init_image="inputs/t/a", mask_image="inputs/t/b", strength=0.5, preview_every=3,
    ),
    VideoSpec("p", "n", 64, 64, 4, 1.5, 7, 8, 12, "ddim", VideoOutput(VideoFormat.WEBM, True, 32)),
    VideoSpec("p", "", 64, 64, 4, 1, 7, 8, 12, "ddim", first_frame="inputs/t/a", preview_every=1),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_its_row(spec: Spec) -> None:
    again = stored_spec(json.loads(json.dumps(asdict(spec))))
    assert again == spec
    assert type(again.output.format) is type(spec.output.format)


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_its_message(spec: Spec) -> None:
    asked = generation(spec=spec)
    again = pb.Generation.FromString(generation_to(asked).SerializeToString())
    assert spec_from(again) == spec


def test_a_strength_leaves_the_last_steps() -> None:
    assert replace(SPEC, steps=50, init_image="k", strength=0.8).run_steps == 40
    assert replace(SPEC, steps=3, init_image="k", strength=0.5).run_steps == 1
    assert replace(SPEC, steps=7).run_steps == 7


def test_a_row_of_before_outputs_were_asked_for_is_a_png() -> None:
    row = asdict(SPEC)
    del row["output"]
    assert stored_spec(row) == SPEC and SPEC.output == ImageOutput()
