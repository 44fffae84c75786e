"""The map from latents to small pictures: fitted right, and like what real generations become."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the export extra is not installed")

import numpy as np

from atelier.catalog import LatentPreview
from benchmarks.chain import Chain
from exporters.gate import Array
from exporters.int8 import Recorder
from exporters.preview import fit, noised
from exporters.spec import ExportSpec

REPOSITORY = Path("triton_repo")
OTHERS = (
    "a large green square on a white background",
    "a small red ring on a black background",
    "a blue cross at the bottom on a yellow background",
    "an orange circle at the top on a purple background",
)
MAP = np.array([[0.1, 0.0, -0.1], [0.0, 0.2, 0.05], [-0.05, 0.1, 0.1], [0.02, -0.1, 0.0]])
BIAS = np.array([0.5, 0.45, 0.55])


def shown(preview: LatentPreview, latents: Array) -> Array:
    """float32 (C, h, w) of one frame -> (h, w, 3) in 0..1, as the card says it."""
    return np.clip(np.moveaxis(latents, 0, -1) @ np.array(preview.factors) + preview.bias, 0, 1)


def psnr(got: Array, expected: Array) -> float:
    return float(-10 * np.log10(((got - expected) ** 2).mean()))


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def small(picture: Array, downscale: int) -> Array:
    """uint8 (H, W, 3) -> (h, w, 3) in 0..1."""
    height, width = (side // downscale for side in picture.shape[:2])
    return picture.reshape(height, downscale, width, downscale, 3).mean(axis=(1, 3)) / 255


def decoded(latents: Array, downscale: int) -> Array:
    """What a decoder that were MAP and BIAS would give: (..., C, h, w) -> uint8 (..., H, W, 3)."""
    pixels = np.clip(np.moveaxis(latents, -3, -1) @ MAP + BIAS, 0, 1)
    levels = (pixels * 255).round().astype(np.uint8)
    return levels.repeat(downscale, axis=-3).repeat(downscale, axis=-2)


@pytest.mark.parametrize("kind", ["picture", "stacked", "clip"])
def test_a_map_that_there_is_is_found_wherever_the_frames_lie(kind: str) -> None:
    frames = np.random.default_rng(1).standard_normal((2, 3, 4, 5, 6), np.float32).clip(-1.5, 1.5)
    if kind == "picture":
        spec = ExportSpec("a", 1, 1, channels=4, downscale=2)
        pairs = [(one[0][None], decoded(one[0][None], 2)) for one in frames]
    elif kind == "stacked":
        spec = ExportSpec("a", 1, 1, channels=12, downscale=2, output_frames=3)
        pairs = [(frames.reshape(2, 12, 5, 6), decoded(frames, 2))]
    else:  # as Wan's: the first latent frame is one picture, each other is four
        spec = ExportSpec("a", 1, 1, channels=4, downscale=2, frames=3, output_frames=9)
        pictures = decoded(frames, 2)[:, [0, 1, 1, 1, 1, 2, 2, 2, 2]]
        pairs = [(np.moveaxis(frames, 1, 2), pictures)]

    made = fit(pairs, pairs[-1:], spec)

    np.testing.assert_allclose(made.factors, MAP, atol=2e-3)
    np.testing.assert_allclose(made.bias, BIAS, atol=2e-3)
    assert made.psnr > 40


def test_noise_is_the_same_for_the_same_seed() -> None:
    latents = np.zeros((1, 4, 2, 2), np.float32)

    np.testing.assert_array_equal(noised(latents, 1), noised(latents, 1))
    assert not np.array_equal(noised(latents, 1), noised(latents, 2))


@pytest.mark.parametrize(("card_file", "least"), [("tiny_image.toml", 14), ("tiny_video.toml", 13)])
def test_the_preview_of_a_real_generation_is_like_what_comes_out(
    card_file: str, least: float
) -> None:
    """Prompts and noise that nothing was fitted to; shapes of full colour, which no line can meet
    exactly: the best line for these very pictures would reach 17 dB."""
    chain = Chain(REPOSITORY, card_file)
    decoder = Recorder(chain.vae_decoder)
    chain.vae_decoder = decoder

    drawn = chain.draw(OTHERS, seed=5, steps=12, guidance=1.5, pixels=64)

    preview, form = chain.card.preview, chain.card.latents
    assert preview is not None
    pictures = drawn.reshape(-1, *drawn.shape[-3:])
    latents = decoder.feeds[0]["latents"].reshape(len(pictures), -1, 16, 16)
    assert latents.shape[1] == len(preview.factors)
    true = [small(picture, form.downscale) for picture in pictures]
    seen = [shown(preview, one) for one in latents]
    assert np.mean([psnr(*pair) for pair in zip(seen, true, strict=True)]) > least
    frames = len(pictures) // len(OTHERS)
    for k, one in enumerate(seen):
        nearest = max(range(len(true)), key=lambda other: psnr(one, true[other]))
        assert nearest // frames == k // frames  # anybody can tell which prompt it is
        assert cosine(one - one.mean(axis=(0, 1)), true[k] - true[k].mean(axis=(0, 1))) > 0.7
