"""The tables against diffusers' own schedulers, step by step; noise that never changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.sampler import alpha_bars, noise, plan
from atelier.catalog import NoiseSchedule

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (1, 4, 8, 8)


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


def reference(sampler: str, of: NoiseSchedule) -> Any:
    settings: dict[str, Any] = {
        "num_train_timesteps": of.train_timesteps,
        "beta_start": of.beta_start,
        "beta_end": of.beta_end,
        "beta_schedule": of.beta_schedule,
        "prediction_type": of.prediction,
        "rescale_betas_zero_snr": of.zero_terminal_snr,
        "timestep_spacing": of.timestep_spacing,
        "steps_offset": of.steps_offset,
    }
    if sampler == "ddim":
        return diffusers.DDIMScheduler(
            **settings, clip_sample=False, set_alpha_to_one=of.set_alpha_to_one
        )
    return diffusers.EulerDiscreteScheduler(**settings)


def model(x: Any, t: Any) -> Any:
    """Stands in for a network: smooth, of unit size, and it depends on both inputs."""
    return torch.tanh(1.3 * x + 0.2 * torch.roll(x, 1, -1)) * (0.5 + 0.5 * float(t) / 1000)


CASES = [
    schedule(prediction=prediction, zero_terminal_snr=zero, timestep_spacing=spacing, **more)
    for prediction in ("v_prediction", "epsilon")
    for zero in (False, True)
    for spacing in ("trailing", "leading", "linspace")
    for more in ({}, {"steps_offset": 1, "set_alpha_to_one": False})
]


def name(of: NoiseSchedule) -> str:
    zero = "zero-snr" if of.zero_terminal_snr else "snr"
    return f"{of.prediction}-{zero}-{of.timestep_spacing}-offset{of.steps_offset}"


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 30, 50])
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize("of", CASES, ids=name)
def test_each_step_is_diffusers_step(of: NoiseSchedule, sampler: str, steps: int) -> None:
    theirs = reference(sampler, of)
    theirs.set_timesteps(steps)
    pure_noise = of.zero_terminal_snr and float(theirs.timesteps[0]) == 999
    if pure_noise and of.prediction == "epsilon" and sampler == "ddim":
        with pytest.raises(ValueError, match="zero terminal SNR"):
            plan(of, sampler, steps)
        return
    ours = plan(of, sampler, steps)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps.numpy(), rtol=1e-6)

    start = torch.from_numpy(noise(3, 0, SHAPE))
    their_x = start * theirs.init_noise_sigma
    x = start * ours.initial_scale
    for k, t in enumerate(theirs.timesteps):
        # Theirs, from their state: VE for Euler, VP for DDIM.
        rounding = 1.2e-7 * float(their_x.abs().max())  # of float32 at sigma = 4096, in theirs
        m = model(theirs.scale_model_input(their_x, t), t)
        expected = theirs.step(m, t, their_x)
        # Ours, as the exported graph computes it.
        s, p, q, a, b, c = (float(v) for v in ours.coefficients[k])
        assert (s, c) == (1.0, 0.0)
        denoised = p * x + q * model(s * x, ours.timesteps[k])
        x = a * x + b * denoised

        their_x = expected.prev_sample
        sigma = float(theirs.sigmas[k + 1]) if sampler == "euler" else 0.0
        in_vp = their_x / (1 + sigma**2) ** 0.5
        for mine, its in ((x, in_vp), (denoised, expected.pred_original_sample)):
            tolerance = 2e-5 * max(1.0, float(its.abs().max())) + rounding
            np.testing.assert_allclose(mine.numpy(), its.numpy(), atol=tolerance, rtol=0)
        # One step is compared at a time: chaos of a stand-in network is not the sampler's.
        x = in_vp


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
        theirs = reference("ddim", of).alphas_cumprod.numpy()
        np.testing.assert_allclose(np.sqrt(alpha_bars(of)), np.sqrt(theirs), atol=2e-5)


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
