"""What `list` and `presets set` make of their words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import typer

from atelier.cli.listing import filter_of
from atelier.cli.presets import fill_in
from atelier.cli.problems import ProblemError
from atelier.v1 import generation_pb2 as pb
from atelier.v1.preset_pb2 import Preset
from gateway.model_servicer import _model
from tests.support.cards import toy_card, video_card

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_a_filter_says_what_the_options_say() -> None:
    which = filter_of("toy", ["job=7", "note=a=b"], ["failed", "Running"], "2h", NOW)
    assert (which.model, which.labels) == ("toy", {"job": "7", "note": "a=b"})
    assert list(which.states) == [pb.GENERATION_STATE_FAILED, pb.GENERATION_STATE_RUNNING]
    assert which.created_after.ToDatetime(UTC) == NOW.replace(hour=10)
    day = filter_of("", [], [], "2026-11-20", NOW)
    assert day.created_after.ToDatetime() == datetime(2026, 11, 20)  # noqa: DTZ001
    assert filter_of("", [], [], "", NOW) == pb.GenerationFilter()


@pytest.mark.parametrize(
    ("labels", "states", "since"),
    [
        (["job"], [], ""),
        (["=7"], [], ""),
        ([], ["done"], ""),
        ([], [], "soon"),
        ([], [], "99999d9"),
    ],
)
def test_what_says_nothing_is_refused(labels: list[str], states: list[str], since: str) -> None:
    with pytest.raises(typer.BadParameter, match="say"):
        filter_of("", labels, states, since, NOW)


def test_values_find_their_fields() -> None:
    preset = Preset()
    words = ["steps=8", "guidance=2.5", "sampler=euler", "output.format=webp", "output.crop.x=3"]
    fill_in(preset, words, _model(toy_card()))
    assert (preset.image.steps, preset.image.guidance, preset.image.sampler) == (8, 2.5, "euler")
    assert preset.image.output.format == pb.IMAGE_FORMAT_WEBP
    assert preset.image.output.crop.x == 3
    clip = Preset()
    fill_in(clip, ["frames_per_second=4"], _model(video_card()))
    assert clip.video.frames_per_second == 4


@pytest.mark.parametrize(
    "word", ["steps", "stepz=8", "steps=many", "output.format=gif", "frames=8"]
)
def test_a_field_or_a_value_that_there_is_not(word: str) -> None:
    with pytest.raises(ProblemError, match=word):
        fill_in(Preset(), [word], _model(toy_card()))


def test_a_field_that_was_meant() -> None:
    with pytest.raises(ProblemError, match="did you mean steps"):
        fill_in(Preset(), ["stepz=8"], _model(toy_card()))
