"""The grammar of the tiny model says, draws and reads back the same scenes."""

import numpy as np
import pytest

from exporters.tiny.checker import measure, read
from exporters.tiny.scenes import (
    PALETTE,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    all_scenes,
    is_held_out,
    prompt_of,
    render,
    scene_of,
)

DEFAULT = Scene("circle", "red", "blue")


def test_default_prompt_is_plain_and_means_centre_and_medium() -> None:
    assert prompt_of(DEFAULT) == "a red circle on a blue background"
    assert scene_of("a red circle on a blue background") == DEFAULT
    assert (DEFAULT.position, DEFAULT.size) == ("center", "medium")


def test_article_fits_the_word() -> None:
    assert prompt_of(Scene("ring", "orange", "white", "left", "small")) == (
        "a small orange ring at the left on a white background"
    )
    assert prompt_of(Scene("ring", "orange", "white")) == "an orange ring on a white background"


@pytest.mark.parametrize("seed", range(3))
def test_every_way_to_say_a_scene_reads_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for scene in all_scenes():
        prompt = prompt_of(scene, rng)
        assert scene_of(prompt) == scene, prompt


@pytest.mark.parametrize("prompt", ["", "a circle on a blue background", "a red circle", "hello"])
def test_prompt_outside_the_grammar_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="a prompt names"):
        scene_of(prompt)


@pytest.mark.parametrize(
    "parts",
    [
        ("blob", "red", "blue", "center", "small"),
        ("ring", "pink", "blue", "center", "small"),
        ("ring", "red", "pink", "center", "small"),
        ("ring", "red", "blue", "nowhere", "small"),
        ("ring", "red", "blue", "center", "vast"),
    ],
)
def test_unknown_word_makes_no_scene(parts: tuple[str, str, str, str, str]) -> None:
    with pytest.raises(ValueError, match="unknown"):
        Scene(*parts)


def test_held_out_combinations_are_a_seventh_and_leave_every_pair_to_learn_from() -> None:
    held = {(s.shape, s.colour, s.background) for s in all_scenes() if is_held_out(s)}
    seen = {(s.shape, s.colour, s.background) for s in all_scenes() if not is_held_out(s)}
    assert len(held) == 40
    assert len(seen) == 240
    assert not is_held_out(DEFAULT)
    assert {(c, b) for _, c, b in seen} == {(c, b) for c in PALETTE for b in PALETTE if c != b}
    assert {(s, c) for s, c, _ in seen} == {(s, c) for s in SHAPES for c in PALETTE}
    assert {(s, b) for s, _, b in seen} == {(s, b) for s in SHAPES for b in PALETTE}
    assert {s for s, _, _ in held} == set(SHAPES)


def test_rendering_is_uint8_and_antialiased() -> None:
    pixels = render(DEFAULT)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[32, 32]) == PALETTE["red"]
    assert tuple(pixels[0, 0]) == PALETTE["blue"]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 8


def test_checker_reads_every_true_rendering() -> None:
    wrong = [scene for scene in all_scenes() if measure(render(scene)) != scene]
    assert wrong == []


def test_checker_reads_shaken_and_noisy_renderings() -> None:
    rng = np.random.default_rng(0)
    for scene in list(all_scenes())[::7]:
        noise = rng.normal(0, 6, size=(64, 64, 3))
        pixels = np.clip(render(scene, rng=rng) + noise, 0, 255).astype(np.uint8)
        assert measure(pixels) == scene


@pytest.mark.parametrize("side", [32, 128])
def test_checker_reads_other_sizes_of_picture(side: int) -> None:
    for scene in list(all_scenes())[::29]:
        assert measure(render(scene, side=side)) == scene


def test_checker_finds_nothing_on_an_empty_background() -> None:
    assert measure(np.full((64, 64, 3), PALETTE["blue"], dtype=np.uint8)) is None


def test_misfit_tells_a_true_outline_from_a_spoilt_one() -> None:
    pixels = render(DEFAULT)
    true = read(pixels)
    pixels[:, 32:] = PALETTE["blue"]
    spoilt = read(pixels)
    assert true is not None
    assert spoilt is not None
    assert true.misfit < 0.05 < spoilt.misfit


@pytest.mark.parametrize("shape", [(64, 64), (64, 32, 3), (64, 64, 4)])
def test_checker_refuses_what_is_not_a_square_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected square"):
        measure(np.zeros(shape, dtype=np.uint8))


def test_every_word_of_the_grammar_is_drawn_differently() -> None:
    pictures = {
        render(Scene(shape, "red", "blue", position, size)).tobytes()
        for shape in SHAPES
        for position in POSITIONS
        for size in SIZES
    }
    assert len(pictures) == len(SHAPES) * len(POSITIONS) * len(SIZES)
