"""What the tables keep to, what is refused, and noise that never changes. See test_samplers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.noise_levels import alpha_bars
from agent.sampler import noise, plan
from atelier.catalog import NoiseSchedule

diffusers = pytest.importorskip("diffusers")


def schedule(**changes: Any) -> NoiseSchedule:
    values: dict[str, Any] = {
        "train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction": "v_prediction",
        "zero_terminal_snr": False,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
        "steps_offset": 0,
    }
    return NoiseSchedule(**(values | changes))


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_latents_keep_unit_variance(sampler: str, steps: int) -> None:
    """With an oracle for the model (v of unit data), no latents ever leave unit variance."""
    ours = plan(schedule(zero_terminal_snr=True), sampler, steps)
    x0, e = noise(1, 0, (64, 64)), noise(2, 0, (64, 64))
    level = plan(schedule(zero_terminal_snr=True), sampler, steps).coefficients
    alpha, sigma = level[0, 1], -level[0, 2]
    x = alpha * x0 + sigma * e
    for _, p, q, a, b, _ in ours.coefficients:
        v = p * e + q * x0  # v = A*e - S*x0, and p = A, q = -S
        denoised = p * x + q * v
        np.testing.assert_allclose(denoised, x0, atol=1e-4)
        x = a * x + b * denoised
        assert 0.9 < x.std() < 1.1
    np.testing.assert_allclose(x, x0, atol=0.15 if sampler == "ddim" else 1e-4)


def test_the_length_is_the_steps_asked_for() -> None:
    for spacing in ("trailing", "leading", "linspace"):
        for steps in range(1, 1001):
            made = plan(schedule(timestep_spacing=spacing), "euler", steps)
            assert made.steps == steps == len(made.coefficients)


def test_cosine_and_linear_betas() -> None:
    for betas in ("linear", "squaredcos_cap_v2"):
        of = schedule(beta_schedule=betas, prediction="epsilon", timestep_spacing="leading")
        theirs = diffusers.DDIMScheduler(
            beta_start=of.beta_start, beta_end=of.beta_end, beta_schedule=betas
        ).alphas_cumprod.numpy()
        np.testing.assert_allclose(alpha_bars(of), theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sampler", "steps"),
    [
        ({}, "heun", 20),
        ({}, "ddim", 0),
        ({}, "ddim", 1001),
        ({"prediction": "x"}, "ddim", 20),
        ({"timestep_spacing": "x"}, "euler", 20),
        ({"beta_schedule": "x"}, "euler", 20),
    ],
)
def test_what_is_unknown_is_refused(changes: dict[str, str], sampler: str, steps: int) -> None:
    with pytest.raises(ValueError, match=r"unknown|must be"):
        plan(schedule(**changes), sampler, steps)


def test_noise_is_keyed_by_seed_and_step() -> None:
    shape = (4, 16, 16)
    np.testing.assert_array_equal(noise(7, 0, shape), noise(7, 0, shape))
    assert not np.array_equal(noise(7, 0, shape), noise(8, 0, shape))
    assert not np.array_equal(noise(7, 0, shape), noise(7, 1, shape))
    assert noise(2**32 - 1, 0, shape).dtype == np.float32
    assert abs(float(noise(7, 0, (256, 256)).std()) - 1) < 0.02


def test_noise_is_the_same_on_every_machine_and_day() -> None:
    """Golden: a seed must give the same picture after an upgrade. Change it and say so loudly."""
    first = noise(42, 0, (4,))
    np.testing.assert_array_equal(first, np.array(GOLDEN, dtype=np.float32))


GOLDEN = [0.18170474469661713, -1.2426393032073975, -0.5515530109405518, 0.3664800226688385]
