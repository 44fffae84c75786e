"""The card as its readers read it."""

import tomllib
from dataclasses import replace
from typing import Any

import pytest

from atelier.catalog import SAMPLERS, LatentPreview, ModelCard
from atelier.spec import VideoSpec
from exporters import card
from exporters.errors import CheckpointError
from exporters.gate import Figure, Pictures, Threshold
from exporters.measure import Cost
from exporters.offer import KNOWN
from exporters.preview import Preview
from exporters.spec import ExportSpec

SPEC = ExportSpec("tiny-image", tokens=32, width=64, channels=4, downscale=4, encodes=True)
SCHEDULER_CONFIG = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "trained_betas": None,
}
COSTS = {
    "text_encoder": Cost(0.1, 400_000, 1_000, ((1, 0.0001), (16, 0.001))),
    "denoiser": Cost(0.2, 12_000_000, 20_000, ((1, 0.0061234), (16, 0.08))),
    "vae_decoder": Cost(0.3, 3_000_000, 3_000, ((1, 0.003), (16, 0.05))),
    "vae_encoder": Cost(0.1, 1_000_000, 1_000, ((1, 0.001), (16, 0.02))),
}
WEIGHTS = {
    "tiny_image__text_encoder": 300_000,
    "tiny_image__denoiser": 10_900_000,
    "tiny_image__vae_decoder": 2_700_000,
    "tiny_image__vae_encoder": 900_000,
}
FACTS = card.Facts(
    spec=SPEC,
    kind="image",
    family="sd",
    engine="onnxruntime",
    version="v",
    schedule=card.noise_schedule(SCHEDULER_CONFIG),
    samplers=["ddim", "euler"],
    offer=KNOWN["tiny-image"],
    limits=KNOWN["tiny-image"].limits([(64, 64)], 16),
    weights=WEIGHTS,
    costs={"64x64": COSTS},
    figures=[
        Figure("tiny_image__denoiser.denoised", 0.99999999, 3.2e-6, Threshold(0.9, 1)),
        Figure("tiny_image__vae_decoder.images", 1.0, 1.0, Threshold(0.9, 1)),
    ],
    int8={"tiny_image__vae_decoder.images": {"psnr": 46.5}},
    pictures=Pictures(51.234, 2.0, 40.0, "64x64, 20 steps"),
    preview=Preview([[0.1, 0.2, -0.3]] * 4, [0.5, 0.4, 0.6], 16.7, "by four draws"),
    files={"tiny_image__denoiser/1/model.onnx": "0123"},
    source={"licence": "apache-2.0", "tools": {"torch": "2.13.0"}},
    precision={"name": "fp16", "kept_in_fp32": ['LayerNorm: "sums"']},
)


def read(**changes: Any) -> ModelCard:
    return ModelCard.parse(card.render(replace(FACTS, **changes)))


def test_readers_get_back_what_was_written():
    made = read()

    assert (made.name, made.kind, made.family) == ("tiny-image", "image", "sd")
    assert made.components.denoiser == "tiny_image__denoiser"
    assert made.components.vae_encoder == "tiny_image__vae_encoder"
    assert made.components.tokenizer == "tiny_image__text_encoder/tokenizer.json"
    assert made.schedule.prediction == "v_prediction"
    assert made.schedule.zero_terminal_snr is True
    assert made.samplers == ("ddim", "euler")
    assert made.limits["width"].default == 64
    assert made.limits["steps"].unit == "steps"
    assert made.limits["guidance"].multiple_of == 0
    assert made.presets["draft"].values == {"steps": 8}
    assert card.spec_of(made) == SPEC
    assert made.max_rows == SPEC.max_batch_size
    assert dict(made.weights) == WEIGHTS
    assert dict(made.parts) == {}
    assert made.preview == LatentPreview(((0.1, 0.2, -0.3),) * 4, (0.5, 0.4, 0.6), 16.7)


def test_a_card_without_a_preview_has_none_and_one_of_other_channels_is_refused():
    text = card.render(FACTS)
    start, end = text.index("[preview]"), text.index("[text]")

    assert ModelCard.parse(text[:start] + text[end:]).preview is None
    with pytest.raises(ValueError, match="has 4 rows, and the latents 8 channels"):
        ModelCard.parse(text.replace("channels = 4", "channels = 8"))


def test_what_was_quantized_is_told_by_its_own_figures():
    parity = tomllib.loads(card.render(FACTS))["parity"]

    assert parity["tiny_image__denoiser.denoised"]["cosine"] == 0.99999999
    assert parity["tiny_image__vae_decoder.images"] == {"psnr": 46.5}


def test_a_clip_s_card_limits_time_and_names_its_shape_as_specs_do():
    spec = replace(SPEC, channels=32, output_frames=8)
    shape, limits = spec.shape(64, 64), KNOWN["tiny-video"].limits([(64, 64)], 16, 8)
    made = read(kind="video", spec=spec, limits=limits, costs={shape: COSTS})

    frames, pace = made.limits["frames"], made.limits["frames_per_second"]
    assert (frames.minimum, frames.maximum) == (8, 8)  # as many as the graphs have
    assert (pace.minimum, pace.maximum, pace.default) == (1, 60, 8)
    assert "count" not in made.limits
    asked = VideoSpec("p", "", 64, 64, 4, 1.5, 7, 8, 8, "ddim")
    assert list(made.profiles) == [asked.shape]
    assert made.latents.shape(64, 64) == (32, 16, 16)
    assert made.latents.pixel_shape(64, 64) == (8, 64, 64, 3)
    with pytest.raises(ValueError, match="no limits for count"):
        read(limits=limits)
    with pytest.raises(ValueError, match="not image or video"):
        read(kind="sound")


def test_people_get_what_no_service_reads():
    table = tomllib.loads(card.render(FACTS))

    assert table["parity"]["pictures"]["psnr"] == 51.2
    assert table["parity"]["tiny_image__denoiser.denoised"]["max_abs_diff"] == 3.2e-6
    assert table["files"] == FACTS.files
    assert table["source"]["tools"]["torch"] == "2.13.0"
    assert table["precision"]["kept_in_fp32"] == ['LayerNorm: "sums"']
    assert table["measured"]["vae_decoder_seconds"] == [[1, 0.003], [16, 0.05]]


def test_resident_is_what_was_measured_and_at_least_the_weights():
    assert read().resident_bytes == 16_400_000
    heavy = WEIGHTS | {"tiny_image__denoiser": 20_000_000}
    assert read(weights=heavy).resident_bytes == sum(heavy.values())


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, ids=77, tokens=78, masking="concat"),
        replace(SPEC, frames=3, output_frames=9, encodes=False),
        replace(SPEC, channels=32, output_frames=8, masking="concat"),
        replace(SPEC, channels=32, output_frames=8, first_frame=True),
        replace(SPEC, names={"vae_decoder": "other__vae_decoder"}),
    ],
    ids=["pooled", "clip", "stacked", "from a picture", "shared"],
)
def test_every_kind_of_spec_comes_back(spec: ExportSpec):
    weights = {component.name: 1 for component in spec.components}
    assert card.spec_of(read(spec=spec, weights=weights)) == spec


def test_two_tokenizers_and_parts_are_told():
    spec = replace(SPEC, ids=77 + 256, tokens=334)
    made = read(spec=spec, second_ids=256, parts={"a_1of2": 5, "a_2of2": 6})

    assert (made.text.first_ids, made.text.second_ids) == (77, 256)
    assert made.components.second_tokenizer == "tiny_image__text_encoder/second/tokenizer.json"
    assert card.spec_of(made) == spec
    assert list(made.parts.items()) == [("a_1of2", 5), ("a_2of2", 6)]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[profiles.64x64]", "[not_profiles.64x64]", "profiles"),
        ("step_seconds = [[1, 0.00612], [16, 0.08]]", "step_seconds = []", "no measured profiles"),
        ('["ddim", "euler"]', '["ddim", "heun"]', "no such samplers: heun"),
    ],
)
def test_readers_refuse_a_card_that_would_fail_later(old: str, new: str, why: str):
    text = card.render(FACTS)
    assert old in text
    with pytest.raises(ValueError, match=why):
        ModelCard.parse(text.replace(old, new))


def test_profile_is_the_denoisers_steps_and_everybodys_memory():
    profile = read().profile("64x64")

    assert profile.activation_bytes_per_row == 25_000
    assert profile.batch_cap == 16
    assert profile.step_seconds == ((1, 0.00612), (16, 0.08))


def test_defaults_and_presets_keep_to_the_limits():
    made = read()

    for limit in made.limits.values():
        assert limit.violation(limit.default, limit.field) is None
    for preset in made.presets.values():
        for field, value in preset.values.items():
            assert made.limits[field].violation(value, field) is None


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"thresholding": True}, "thresholding"),
        ({"clip_sample": True}, "clip_sample"),
        ({"prediction_type": "score"}, "prediction 'score'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing 'karras'"),
        ({"beta_start": None}, "no beta_start: DDIMScheduler"),
    ],
)
def test_a_schedule_that_no_card_can_say_is_refused(changes: dict[str, object], name: str):
    with pytest.raises(CheckpointError, match=name):
        card.noise_schedule(SCHEDULER_CONFIG | changes)


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        {"prediction_type": "flow_prediction", "flow_shift": 3.0, "beta_start": 0.1},
    ],
)
def test_flow_matching_is_told_by_its_shift(config: dict[str, object]):
    schedule = card.noise_schedule(config)

    assert schedule == {"train_timesteps": 1000, "prediction": "flow", "shift": 3.0}
    assert card.fitting(SAMPLERS, schedule) == ["flow_euler"]
    assert read(schedule=schedule, samplers=["flow_euler"]).schedule.shift == 3.0
    with pytest.raises(CheckpointError, match="use_dynamic_shifting"):
        card.noise_schedule(config | {"use_dynamic_shifting": True})


def test_a_model_that_predicts_noise_at_zero_snr_has_no_ddim():
    schedule = card.noise_schedule(SCHEDULER_CONFIG | {"prediction_type": "epsilon"})
    assert card.fitting(("ddim", "euler", "flow_euler"), schedule) == ["euler"]
