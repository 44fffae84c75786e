"""The card as its readers read it, and what verify finds in a repository."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from atelier.catalog import ModelCard
from exporters import card
from exporters.measure import Cost
from exporters.offer import offer_for
from exporters.pbtxt import CONFIG_FILE
from exporters.repository import problems, publish, staging, version_of
from exporters.spec import MODEL_FILE, MODEL_VERSION, ExportSpec

SPEC = ExportSpec("tiny-image", tokens=32, width=64, channels=4, downscale=4)
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
COSTS = [
    Cost(0.1, 1_000, ((1, 0.0001), (16, 0.001))),
    Cost(0.2, 20_000, ((1, 0.0061234), (16, 0.08))),
    Cost(0.3, 3_000, ((1, 0.003), (16, 0.05))),
]


@dataclass
class Figure:
    name: str
    cosine: float
    max_abs_diff: float


def text_of_card(version: str = "v") -> str:
    offer = offer_for("tiny-image", 64)
    return card.render(
        SPEC,
        version=version,
        schedule=card.noise_schedule(SCHEDULER_CONFIG),
        offer=offer,
        limits=offer.limits(64, 16),
        native_pixels=64,
        weights={
            "tiny_image__text_encoder": 300_000,
            "tiny_image__denoiser": 10_900_000,
            "tiny_image__vae_decoder": 2_700_000,
        },
        costs=COSTS,
        figures=[Figure("tiny_image__denoiser.denoised", 0.99999999, 3.2e-6)],
    )


def test_readers_get_back_what_was_written():
    read = ModelCard.parse(text_of_card())

    assert (read.name, read.kind, read.family) == ("tiny-image", "image", "sd")
    assert read.components.denoiser == "tiny_image__denoiser"
    assert read.components.tokenizer == "tiny_image__text_encoder/tokenizer.json"
    assert read.schedule.prediction == "v_prediction"
    assert read.schedule.zero_terminal_snr is True
    assert read.samplers == (
        "ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras",
    )  # fmt: skip
    assert read.limits["width"].default == 64
    assert read.limits["steps"].unit == "steps"
    assert read.limits["guidance"].multiple_of == 0
    assert read.presets["draft"].values == {"steps": 8}
    assert card.spec_of(read) == SPEC
    assert read.max_rows == SPEC.max_batch_size
    assert read.weights["tiny_image__denoiser"] == 10_900_000
    assert read.resident_bytes == sum(read.weights.values()) == 13_900_000


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[profiles.64x64]", "[not_profiles.64x64]", "profiles"),
        ("step_seconds = [[1, 0.00612], [16, 0.08]]", "step_seconds = []", "no measured profiles"),
        ('samplers = ["ddim", "euler", ', 'samplers = ["ddim", "heun", ', "no such samplers: heun"),
    ],
)
def test_readers_refuse_a_card_that_would_fail_later(old: str, new: str, why: str):
    text = text_of_card()
    assert old in text
    with pytest.raises(ValueError, match=why):
        ModelCard.parse(text.replace(old, new))


def test_profile_is_the_denoisers_steps_and_everybodys_memory():
    profile = ModelCard.parse(text_of_card()).profile("64x64")

    assert profile.activation_bytes_per_row == 24_000
    assert profile.batch_cap == 16
    assert profile.step_seconds == ((1, 0.00612), (16, 0.08))


def test_defaults_and_presets_keep_to_the_limits():
    read = ModelCard.parse(text_of_card())

    for limit in read.limits.values():
        assert limit.violation(limit.default, limit.field) is None
    for preset in read.presets.values():
        for field, value in preset.values.items():
            assert read.limits[field].violation(value, field) is None


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"thresholding": True}, "thresholding"),
        ({"clip_sample": True}, "clip_sample"),
        ({"prediction_type": "flow"}, "prediction 'flow'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing 'karras'"),
    ],
)
def test_a_schedule_that_no_card_can_say_is_refused(changes: dict[str, object], name: str):
    with pytest.raises(ValueError, match=name):
        card.noise_schedule(SCHEDULER_CONFIG | changes)


def test_a_flow_match_schedule_is_refused_by_name():
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    with pytest.raises(ValueError, match="no beta_start: FlowMatchEulerDiscreteScheduler"):
        card.noise_schedule(flow | {"shift": 3.0})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one model, whose ONNX files are placeholders."""
    repository = tmp_path / "triton_repo"
    schedule = card.noise_schedule(SCHEDULER_CONFIG)
    with staging(repository, SPEC) as built:
        for component in SPEC.components:
            (built / component.name / MODEL_VERSION / MODEL_FILE).write_bytes(b"onnx")
        (built / SPEC.tokenizer_file).write_text("{}")
        (built / SPEC.card_file).write_text(text_of_card(version_of(built, SPEC, schedule)))
        publish(built, repository, SPEC)
    return repository


@pytest.fixture(autouse=True)
def _no_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Placeholders have none; the committed repository's are checked by `make verify`."""
    monkeypatch.setattr("exporters.repository._signature_problems", lambda *_: iter(()))


def test_a_published_model_verifies_and_leaves_nothing_aside(repository: Path):
    assert problems(repository) == []
    assert [path.name for path in repository.parent.iterdir()] == ["triton_repo"]


def test_publishing_again_replaces_the_whole_model(repository: Path):
    stray = repository / "tiny_image__denoiser" / "1" / "model.onnx.data"
    stray.write_bytes(b"of an older export")
    schedule = card.noise_schedule(SCHEDULER_CONFIG)

    with staging(repository, SPEC) as built:
        for component in SPEC.components:
            (built / component.name / MODEL_VERSION / MODEL_FILE).write_bytes(b"newer")
        (built / SPEC.tokenizer_file).write_text("{}")
        (built / SPEC.card_file).write_text(text_of_card(version_of(built, SPEC, schedule)))
        publish(built, repository, SPEC)

    assert not stray.exists()
    assert problems(repository) == []


def test_a_failed_build_leaves_the_older_model_alone(repository: Path):
    with pytest.raises(RuntimeError), staging(repository, SPEC):
        raise RuntimeError("parity")

    assert problems(repository) == []
    assert [path.name for path in repository.parent.iterdir()] == ["triton_repo"]


def test_an_edited_config_is_found(repository: Path):
    config = repository / "tiny_image__denoiser" / CONFIG_FILE
    config.write_text(config.read_text().replace("max_batch_size: 16", "max_batch_size: 8"))

    assert any("tiny_image__denoiser/config.pbtxt" in problem for problem in problems(repository))


def test_changed_weights_are_found(repository: Path):
    (repository / "tiny_image__vae_decoder" / MODEL_VERSION / MODEL_FILE).write_bytes(b"other")

    assert problems(repository) == [
        "tiny_image.toml: version is not the hash of the files: export again"
    ]


def test_a_model_without_a_card_is_found(repository: Path):
    (repository / "lost__denoiser").mkdir()

    assert problems(repository) == ["lost__denoiser: belongs to no card"]


def test_the_schedule_counts_for_the_version(repository: Path):
    schedule = card.noise_schedule(SCHEDULER_CONFIG)

    assert version_of(repository, SPEC, schedule) != version_of(
        repository, SPEC, schedule | {"prediction": "epsilon"}
    )
