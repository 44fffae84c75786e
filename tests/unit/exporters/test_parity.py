"""When an export counts as the checkpoint, and diffusers' steps as the graph takes them."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers")

import numpy as np  # noqa: E402

from exporters.errors import ParityError  # noqa: E402
from exporters.families.family import GATES  # noqa: E402
from exporters.gate import EQUAL_PSNR, Threshold, compare, compare_pictures, require  # noqa: E402
from exporters.parity import ask_torch, compare_component, feeds, table  # noqa: E402
from exporters.spec import FREE, Component, Tensor  # noqa: E402
from exporters.to_onnx import export_onnx  # noqa: E402

FLOATS = Threshold(0.9999, 2e-2)
DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
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

    with pytest.raises(ParityError, match=r"toy\.y: cosine .* max abs diff .* \(at most 0\.02\)"):
        require([figure])


def test_another_shape_or_type_is_refused():
    with pytest.raises(ParityError, match="torch has"):
        compare("x", np.ones(3, np.float32), np.ones(4, np.float32), FLOATS)
    with pytest.raises(ParityError, match="torch has"):
        compare_pictures(np.ones((1, 3), np.uint8), np.ones((1, 3)), 40, "")


def test_pictures_are_compared_in_decibels():
    picture = np.full((1, 8, 8, 3), 100, np.uint8)
    other = picture + np.uint8(10)

    equal = compare_pictures(picture, picture, 40, "how")
    figure = compare_pictures(other, picture, 40, "20 steps")

    assert (equal.psnr, equal.holds) == (EQUAL_PSNR, True)
    assert figure.psnr == pytest.approx(28.13, abs=0.01)  # 20*log10(255/10)
    with pytest.raises(ParityError, match=r"pictures: PSNR 28\.1 dB \(at least 40\), 20 steps"):
        require([equal, figure])


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(**DIFFUSION, clip_sample=False),
        diffusers.DDIMScheduler(
            **DIFFUSION,
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
        ),
        diffusers.EulerDiscreteScheduler(**DIFFUSION),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.LCMScheduler(**DIFFUSION, clip_sample=False),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_step_asked_in_ones_is_the_step_of_any_latents(scheduler):
    steps = list(table(scheduler, 4))
    scheduler.set_timesteps(4)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 8, generator=rng)
    for t, step in zip(scheduler.timesteps, steps, strict=True):
        m = torch.randn(1, 4, 8, 8, generator=rng)
        lcm = isinstance(scheduler, diffusers.LCMScheduler)
        more = {"generator": torch.Generator().manual_seed(int(t))} if lcm else {}
        if hasattr(scheduler, "scale_model_input"):
            s = step.coefficients[0]
            torch.testing.assert_close(s * x, scheduler.scale_model_input(x, t))
        after = scheduler.step(m, t, x, return_dict=False, **more)[0]

        _, p, q, a, b, c = step.coefficients
        mine = a * x + b * (p * x + q * m)
        if step.noise_scale:
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(int(t)))
            mine = mine + step.noise_scale * noise

        assert (step.timestep, c) == (float(t), 0.0)
        torch.testing.assert_close(mine, after, rtol=1e-3, atol=1e-3)
        x = after


def test_an_output_of_another_form_than_was_said_is_refused(tmp_path):
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x, x], dim=1)

    said = Component(
        "toy", (Tensor("x", "FP32", (2, FREE, FREE)),), (Tensor("y", "FP32", (2, FREE, FREE)),), 4
    )
    given = list(feeds(said, (6, 10), 1, 1))
    reference = ask_torch(Doubled(), said, given)
    export_onnx(Doubled().eval(), said, tmp_path / "toy.onnx", latent_multiple=2)

    with pytest.raises(ParityError, match=r"toy\.y: rows of \(4, 6, 10\) where \(2, -1, -1\)"):
        compare_component(said, tmp_path / "toy.onnx", reference, GATES["fp32"])
