"""A spec comes back from the database as it was, and so does one of an older house."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from atelier.output import ImageFormat, ImageOutput, VideoFormat, VideoOutput
from atelier.spec import ImageSpec, Spec, VideoSpec, stored_spec
from tests.support.generations import SPEC

SPECS: list[Spec] = [
    SPEC,
    ImageSpec("p", "n", 64, 64, 4, 1.5, 7, 2, "ddim", ImageOutput(ImageFormat.AVIF, 50, 32, True)),
    VideoSpec("p", "n", 64, 64, 4, 1.5, 7, 8, 12, "ddim", VideoOutput(VideoFormat.WEBM, True)),
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_its_row(spec: Spec) -> None:
    again = stored_spec(json.loads(json.dumps(asdict(spec))))
    assert again == spec
    assert type(again.output.format) is type(spec.output.format)


def test_a_row_of_before_outputs_were_asked_for_is_a_png() -> None:
    row = asdict(SPEC)
    del row["output"]
    assert stored_spec(row) == SPEC and SPEC.output == ImageOutput()
