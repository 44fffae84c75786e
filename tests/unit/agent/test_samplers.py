"""Every sampler against diffusers' own, step by step, over 1 to 50 steps and all predictions.

Theirs runs in its own coordinates and float32, ours as the exported graph computes. What is
compared is one step at a time from the same latents: chaos of a stand-in network is not the
sampler's. The largest relative error allowed is 1e-5 of the next latents as a whole: the largest
difference over the largest latent, and the same of L2 norms. Not of each latent: one near zero
differs by more of itself, because both sides round to float32. On top of it, what theirs loses by
itself: Euler's latents start at 4096 times unit size where there is zero SNR.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.sampler import noise, plan, renewal
from agent.start import Given
from atelier.catalog import FLOW_SAMPLERS, SAMPLERS, NoiseSchedule
from atelier.spec import steps_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (1, 4, 2, 2)
MOST = 1e-5
STEPS = range(1, 51)
SOME = (1, 2, 3, 4, 7, 14, 15, 16, 20, 30, 50)  # DPM-Solver changes its ways at 15
HALF_ULP = 2.0**-23  # float32

# Stable Diffusion 1, tiny-image (and other zero-SNR models), and what is between.
SCHEDULES = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "zero-snr": {"timestep_spacing": "trailing", "zero_terminal_snr": True},
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
DIFFUSION = [sampler for sampler in SAMPLERS if sampler not in FLOW_SAMPLERS]


def schedule(prediction: str, **changes: Any) -> NoiseSchedule:
    values: dict[str, Any] = {
        "train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction": prediction,
    }
    return NoiseSchedule(**(values | changes))


def reference(sampler: str, of: NoiseSchedule) -> Any:
    """diffusers' scheduler; its Euler schedulers know x0 under another name, or not at all."""
    if sampler == "flow_euler":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=of.shift)
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
    if sampler == "lcm":
        return diffusers.LCMScheduler(**settings, clip_sample=False)
    if sampler.startswith("dpmpp"):
        return diffusers.DPMSolverMultistepScheduler(
            **settings, use_karras_sigmas=sampler.endswith("karras")
        )
    if of.prediction == "sample":
        settings["prediction_type"] = "original_sample" if sampler == "euler" else "epsilon"
    if sampler == "euler":
        return diffusers.EulerDiscreteScheduler(**settings)
    return diffusers.EulerAncestralDiscreteScheduler(**settings)


def model(x: Any, t: Any) -> Any:
    """Stands in for a network: smooth, of unit size, and it depends on both inputs."""
    return torch.tanh(1.3 * x + 0.2 * torch.roll(x, 1, -1)) * (0.5 + 0.5 * float(t) / 1000)


def worst_error(sampler: str, of: NoiseSchedule, steps: int, first: int | None = None) -> float:
    """The largest relative difference of next latents over all steps, and of the first latents;
    by largest values and by L2 norms, whichever is more.

    first: of an image to image, the step that it begins with.
    """
    theirs, ours = reference(sampler, of), plan(of, sampler, steps, first or 0)
    theirs.set_timesteps(steps)
    if hasattr(theirs, "set_begin_index"):
        # else a timestep that comes twice is taken for its second
        theirs.set_begin_index(ours.first)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps.numpy(), rtol=1e-6)
    in_y = sampler.startswith("euler")  # theirs works on y = x/A
    fresh, worst = noise(3, 0, SHAPE), 0.0
    their_x = torch.from_numpy(fresh) * getattr(theirs, "init_noise_sigma", 1.0)
    picture = None if first is None else 0.8 * noise(5, 0, SHAPE)
    x = torch.from_numpy(Given(picture).begin(ours, fresh))
    if picture is not None:
        add = theirs.scale_noise if sampler == "flow_euler" else theirs.add_noise
        given, drawn = torch.from_numpy(picture), torch.from_numpy(fresh)
        at = theirs.timesteps[ours.first][None]
        their_x = add(given, at, drawn) if sampler == "flow_euler" else add(given, drawn, at)
        vp = (1 + float(theirs.sigmas[ours.first]) ** 2) ** 0.5 if in_y else 1.0
        worst = float((x - their_x / vp).abs().max()) / float((their_x / vp).abs().max())
        x = their_x / vp
    before = torch.zeros(SHAPE)
    for k, t in list(enumerate(theirs.timesteps))[ours.first :]:
        rounding = HALF_ULP * float(their_x.abs().max()) if of.zero_terminal_snr else 0.0
        given = theirs.scale_model_input(their_x, t) if in_y else their_x
        m = model(given, t)
        answer = m
        if sampler == "euler_ancestral" and of.prediction == "sample":
            sigma = theirs.sigmas[k]  # the noise that it would have predicted
            answer = (their_x - m) / sigma
        more = {"generator": torch.Generator().manual_seed(k)} if _draws(sampler) else {}
        their_x = theirs.step(answer, t, their_x, return_dict=False, **more)[0]

        s, p, q, a, b, c = (float(v) for v in ours.coefficients[k])
        denoised = p * x + q * model(s * x, ours.timesteps[k])
        x = a * x + b * denoised + c * before
        if _draws(sampler) and (scale := float(ours.noise_scales[k])):
            x = x + scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(k))
        before = denoised
        vp = (1 + float(theirs.sigmas[k + 1]) ** 2) ** 0.5 if in_y else 1.0
        off, true = x - their_x / vp, their_x / vp
        most = (float(off.abs().max()) - rounding) / float(true.abs().max())
        norms = (float(off.norm()) - rounding * off.numel() ** 0.5) / float(true.norm())
        worst = max(worst, most, norms)
        x = their_x / vp
    return worst


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("sampler", DIFFUSION)
def test_every_step_is_diffusers_step(sampler: str, kind: str, prediction: str) -> None:
    of = schedule(prediction, **SCHEDULES[kind])
    if kind == "zero-snr" and prediction == "epsilon" and sampler in ("ddim", "lcm"):
        with pytest.raises(ValueError, match="zero terminal SNR"):
            plan(of, sampler, 20)
        return
    counts = STEPS if kind == "leading" else SOME
    errors = {steps: worst_error(sampler, of, steps) for steps in counts}
    assert {steps: error for steps, error in errors.items() if not error <= MOST} == {}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("sampler", DIFFUSION)
def test_from_a_picture_it_is_diffusers_too(sampler: str, kind: str, prediction: str) -> None:
    """From every step of some plans: the latents that it begins with, and each step from there.

    DPM-Solver's first is of first order, wherever it is.
    """
    of = schedule(prediction, **SCHEDULES[kind])
    if kind == "zero-snr" and prediction == "epsilon" and sampler in ("ddim", "lcm"):
        pytest.skip("cannot be sampled")
    errors = {
        (steps, first): worst_error(sampler, of, steps, first)
        for steps in (1, 2, 5, 20)
        for first in range(0, steps, max(1, steps // 5))
    }
    assert {which: error for which, error in errors.items() if not error <= MOST} == {}


@pytest.mark.parametrize("steps", [1, 4, 10, 50, 100])
def test_a_strength_leaves_the_steps_that_it_leaves_in_diffusers(steps: int) -> None:
    pipeline = SimpleNamespace(scheduler=diffusers.DDIMScheduler())
    pipeline.scheduler.set_timesteps(steps)
    get_timesteps = diffusers.StableDiffusionImg2ImgPipeline.get_timesteps
    for percent in range(1, 101):
        _, left = get_timesteps(pipeline, steps, percent / 100, "cpu")
        assert steps_of(steps, percent / 100) == left


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_flow_matching_is_diffusers_too(shift: float) -> None:
    of = NoiseSchedule(train_timesteps=1000, prediction="flow", shift=shift)
    assert max(worst_error("flow_euler", of, steps) for steps in STEPS) <= MOST
    assert max(worst_error("flow_euler", of, 10, first) for first in range(10)) <= MOST


def test_a_sampler_of_the_other_kind_is_refused() -> None:
    flow = NoiseSchedule(train_timesteps=1000, prediction="flow", beta_schedule="linear")
    with pytest.raises(ValueError, match="ddim is not for a model that predicts flow"):
        plan(flow, "ddim", 4)
    with pytest.raises(ValueError, match="flow_euler is not for a model that predicts epsilon"):
        plan(schedule("epsilon"), "flow_euler", 4)
    with pytest.raises(ValueError, match="lcm: steps must be 1 to 50, not 51"):
        plan(schedule("epsilon"), "lcm", 51)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "lcm"])
def test_fresh_noise_is_the_seeds_and_never_after_the_last_step(sampler: str) -> None:
    made = plan(schedule("epsilon", timestep_spacing="trailing"), sampler, 4)
    assert (made.noise_scales[:-1] > 0).all()
    assert made.noise_scales[-1] == 0
    alone, together = (renewal(made, 2, seeds, (4, 2, 2)) for seeds in ([8], [7, 8]))
    assert alone is not None
    assert together is not None
    np.testing.assert_array_equal(together[1], alone[0])
    np.testing.assert_array_equal(alone[0], made.noise_scales[1] * noise(8, 2, (4, 2, 2)))
    assert renewal(made, 4, [8], (4, 2, 2)) is None


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m", "dpmpp_2m_karras"])
def test_other_samplers_add_nothing(sampler: str) -> None:
    assert not plan(schedule("v_prediction"), sampler, 20).noise_scales.any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_levels_say_what_latents_of_a_step_look_like(sampler: str) -> None:
    """As diffusers' add_noise does, in our coordinates; the last is the picture alone."""
    flow = sampler in FLOW_SAMPLERS
    of = (
        NoiseSchedule(train_timesteps=1000, prediction="flow", shift=3.0)
        if flow
        else schedule("epsilon", timestep_spacing="trailing")
    )
    theirs, made = reference(sampler, of), plan(of, sampler, 8)
    theirs.set_timesteps(8)
    picture, z = torch.randn(SHAPE), torch.randn(SHAPE)
    for k, t in enumerate(theirs.timesteps):
        a, s = (float(v) for v in made.levels[k])
        add = theirs.scale_noise if flow else theirs.add_noise
        expected = add(picture, t[None], z) if flow else add(picture, z, t[None])
        vp = (1 + float(theirs.sigmas[k]) ** 2) ** 0.5 if sampler.startswith("euler") else 1.0
        torch.testing.assert_close(a * picture + s * z, expected / vp, rtol=1e-4, atol=1e-5)
    assert made.levels[8].tolist() == [1.0, 0.0]


def _draws(sampler: str) -> bool:
    return sampler in ("euler_ancestral", "lcm")
