"""The grammar of tiny-video says, draws and reads back the same clips."""

import numpy as np
import pytest

from exporters.tiny.scenes import PALETTE
from exporters.tiny.video_checker import read_clip
from exporters.tiny.video_scenes import (
    FRAMES,
    MOTIONS,
    WORDS,
    Clip,
    all_clips,
    clip_of,
    path,
    prompt_of_clip,
    render_clip,
)

DEFAULT = Clip("circle", "red", "blue", "left")
SOME = list(all_clips())[::9]  # 156 clips, with every motion, shape and colour


def test_plain_prompt_and_its_defaults() -> None:
    assert prompt_of_clip(DEFAULT) == "a red circle moving left on a blue background"
    assert clip_of("a red circle moving left on a blue background") == DEFAULT
    assert clip_of("an orange ring on a white background") == Clip("ring", "orange", "white")
    assert Clip("ring", "orange", "white").motion == "still"


@pytest.mark.parametrize("seed", range(3))
def test_every_way_to_say_a_clip_reads_back_in_words_of_the_grammar(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for clip in all_clips():
        prompt = prompt_of_clip(clip, rng)
        assert clip_of(prompt) == clip, prompt
        assert set(prompt.replace(",", " ,").split()) <= WORDS, prompt


@pytest.mark.parametrize(
    "parts", [("blob", "red", "blue", "left"), ("ring", "red", "blue", "sideways")]
)
def test_unknown_word_makes_no_clip(parts: tuple[str, str, str, str]) -> None:
    with pytest.raises(ValueError, match="unknown"):
        Clip(*parts)


def test_one_seventh_of_the_combinations_is_held_out_in_every_motion() -> None:
    clips = list(all_clips())
    assert len(clips) == 1400
    assert sum(clip.held_out for clip in clips) == 200
    assert {clip.motion for clip in clips if clip.held_out} == set(MOTIONS)


def test_motion_begins_and_ends_where_its_name_says() -> None:
    assert path("left")[0][0] > 0.7
    assert path("left")[-1][0] < 0.3
    assert path("up")[0][1] > 0.7
    assert path("up")[-1][1] < 0.3
    assert len(path("down")) == FRAMES
    assert set(path("still")) == {(0.5, 0.5)}


def test_rendering_is_frames_of_colour_of_which_the_figure_moves() -> None:
    frames = render_clip(DEFAULT)
    assert frames.shape == (FRAMES, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert tuple(frames[0, 32, 46]) == PALETTE["red"]
    assert tuple(frames[-1, 32, 46]) == PALETTE["blue"]
    assert tuple(frames[-1, 32, 18]) == PALETTE["red"]


def test_checker_reads_every_true_frame_of_true_clips() -> None:
    for clip in SOME:
        reading = read_clip(render_clip(clip))
        assert reading is not None
        assert reading.clip == clip
        assert reading.frames_right(clip) == FRAMES


def test_checker_reads_shaken_and_noisy_clips() -> None:
    rng = np.random.default_rng(0)
    for clip in SOME[::4]:
        noise = rng.normal(0, 6, size=(FRAMES, 64, 64, 3))
        frames = np.clip(render_clip(clip, rng=rng) + noise, 0, 255).astype(np.uint8)
        reading = read_clip(frames)
        assert reading is not None
        assert reading.clip == clip


def test_checker_tells_a_clip_from_its_reverse() -> None:
    reading = read_clip(render_clip(DEFAULT)[::-1])
    assert reading is not None
    assert reading.clip.motion == "right"
    assert reading.frames_right(DEFAULT) <= 2  # where the two ways cross


def test_one_wrong_frame_is_outvoted_and_counted() -> None:
    frames = render_clip(DEFAULT)
    frames[3] = render_clip(Clip("square", "white", "black", "left"))[3]
    reading = read_clip(frames)
    assert reading is not None
    assert reading.clip == DEFAULT
    assert reading.frames_right(DEFAULT) == FRAMES - 1


def test_checker_sees_nothing_in_an_empty_frame_or_a_leap() -> None:
    empty = render_clip(DEFAULT)
    empty[5] = PALETTE["blue"]
    assert read_clip(empty) is None
    leaping = render_clip(DEFAULT)
    leaping[[0, 7]] = leaping[[7, 0]]
    assert read_clip(leaping) is None


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 64, 64, 3), (8, 64, 32, 3)])
def test_checker_refuses_what_is_no_clip(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_clip(np.zeros(shape, dtype=np.uint8))
