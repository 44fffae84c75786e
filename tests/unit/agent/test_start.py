"""What latents begin with, what is put back, and which latents a mask frees."""

from __future__ import annotations

import numpy as np
import pytest

from agent.sampler import noise, plan
from agent.start import Given, Kept, fresh_noise, made_anew, shown_mask
from tests.support.cards import toy_card

SCHEDULE = toy_card().schedule
SHAPE = (4, 3, 5)
PICTURE = noise(99, 0, SHAPE)


def test_each_picture_has_its_own_noise_and_one_picture() -> None:
    fresh = fresh_noise((7, 8), SHAPE)
    made = plan(SCHEDULE, "ddim", 10, first=4)
    latents = Given(PICTURE).begin(made, fresh)
    alpha, sigma = made.levels[4]
    for row, seed in zip(latents, (7, 8), strict=True):
        np.testing.assert_allclose(row, alpha * PICTURE + sigma * noise(seed, 0, SHAPE), rtol=1e-6)
    assert latents.dtype == np.float32


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_the_whole_way_under_a_mask_begins_with_noise_alone(sampler: str) -> None:
    fresh = fresh_noise((7,), SHAPE)
    whole, part = plan(SCHEDULE, sampler, 10), plan(SCHEDULE, sampler, 10, first=1)
    expected = fresh * np.float32(whole.initial_scale)
    masked = Given(PICTURE, np.ones((1, 3, 5), np.bool_))
    np.testing.assert_array_equal(masked.begin(whole, fresh), expected)
    np.testing.assert_array_equal(Given().begin(whole, fresh), expected)
    np.testing.assert_array_equal(masked.begin(part, fresh), Given(PICTURE).begin(part, fresh))


def test_what_is_kept_is_at_the_level_that_the_step_came_to() -> None:
    made = plan(SCHEDULE, "ddim", 5)
    fresh = fresh_noise((1, 2), SHAPE)
    new = np.zeros((1, 3, 5), np.bool_)
    new[:, 1:, :2] = True
    kept = Kept(PICTURE, fresh, new)
    for step in range(1, 6):
        latents = np.full((2, *SHAPE), 9.0, np.float32)
        kept.restore(latents, made, step)
        alpha, sigma = made.levels[step]
        np.testing.assert_array_equal(latents[:, :, 1:, :2], 9.0)
        np.testing.assert_array_equal(
            latents[:, :, :, 2:], (alpha * PICTURE + sigma * fresh)[:, :, :, 2:]
        )
    np.testing.assert_array_equal(latents[:, :, 0], np.stack([PICTURE[:, 0]] * 2))  # no noise left


def test_a_latent_is_made_anew_where_any_of_its_pixels_is() -> None:
    mask = np.zeros((8, 12), np.float32)
    mask[3, 7] = 1.0
    mask[7, 0] = 0.49  # the edge of a soft brush
    expected = np.zeros((1, 2, 3), np.bool_)
    expected[0, 0, 1] = True
    np.testing.assert_array_equal(made_anew(mask, 4), expected)


def test_a_denoiser_sees_the_mask_as_diffusers_scales_it() -> None:
    torch = pytest.importorskip("torch")
    mask = np.random.default_rng(3).random((16, 24), dtype=np.float32)
    binary = torch.from_numpy((mask >= 0.5).astype(np.float32))[None, None]
    expected = torch.nn.functional.interpolate(binary, size=(4, 6))[0].numpy()
    np.testing.assert_array_equal(shown_mask(mask, 4), expected)
