"""When an export counts as the checkpoint, and DDIM's coefficients against diffusers."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers")

import numpy as np  # noqa: E402

from exporters.parity import FLOATS, ParityError, compare, ddim, reference_ddim, require  # noqa: E402

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}


def test_equal_arrays_hold():
    a = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)

    figure = compare("x", a, a.copy(), FLOATS)

    assert figure.holds
    assert figure.max_abs_diff == 0
    require([figure])


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf])
def test_one_wrong_number_is_refused_by_name(wrong):
    a = np.ones((4,), np.float32)
    b = a.copy()
    b[2] = wrong

    with np.errstate(invalid="ignore"):
        figure = compare("toy.y", b, a, FLOATS)

    with pytest.raises(ParityError, match=r"toy\.y"):
        require([figure])


def test_another_shape_or_type_is_refused():
    with pytest.raises(ParityError, match="torch has"):
        compare("x", np.ones(3, np.float32), np.ones(4, np.float32), FLOATS)
    with pytest.raises(ParityError, match="torch has"):
        compare("x", np.ones(3, np.float32), np.ones(3, np.uint8), FLOATS)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("steps", [4, 20])
def test_ddim_steps_as_diffusers_does(prediction: str, steps: int):
    schedule = SCHEDULE | {
        "prediction_type": prediction,
        # epsilon says nothing at zero signal: diffusers divides by zero there
        "rescale_betas_zero_snr": prediction == "v_prediction",
    }
    scheduler = diffusers.DDIMScheduler.from_config(schedule)
    scheduler.set_timesteps(steps)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 8, generator=rng)

    for t, (timestep, (s, p, q, a, b, c)) in zip(
        scheduler.timesteps, ddim(schedule, steps), strict=True
    ):
        m = torch.randn(1, 4, 8, 8, generator=rng)
        after = scheduler.step(m, t, x).prev_sample
        assert (timestep, s, c) == (float(t), 1.0, 0.0)
        torch.testing.assert_close(a * x + b * (p * x + q * m), after, rtol=1e-4, atol=1e-4)
        x = after


def test_the_reference_does_not_clip_where_nobody_says_so():
    unsaid = {name: value for name, value in SCHEDULE.items() if name != "clip_sample"}

    assert reference_ddim(unsaid).config.clip_sample is False
