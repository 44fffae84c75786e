"""The exporter's commands on a small Stable Diffusion, from the folder to the published model."""

from __future__ import annotations

import errno
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers")

from typer.testing import CliRunner

import exporters.making
from atelier.catalog import Catalog
from exporters.__main__ import app
from tests.support.checkpoints import make

pytestmark = pytest.mark.timeout(900)  # a busy machine takes minutes to trace


@dataclass
class Exported:
    """What two calls of the command left: the first found the disk full at its last stage."""

    checkpoint: Path
    repository: Path
    first: str
    left: list[str]
    second: str


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    root = tmp_path_factory.mktemp("export")
    checkpoint, repository = make("sd", root / "checkpoint"), root / "triton_repo"
    (checkpoint / "README.md").write_text("---\nlicense: openrail\n---\n")
    words = [
        "export", str(checkpoint), "--name", "a.small-sd", "--repository", str(repository),
        "--shapes", "32x32,32x48", "--max-batch", "2", "--parts", "2",
        "--samplers", "euler,ddim",
    ]  # fmt: skip

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.onnx")

    def again(*_: object, **__: object) -> None:
        raise AssertionError("what was done is done again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporters.making, "measure", full)
        first = CliRunner().invoke(app, words)
    assert first.exit_code == 1 and "full" in first.output, (first.output, first.exception)
    left = sorted(path.name for path in repository.glob("*")) if repository.exists() else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporters.making, "export_onnx", again)
        patch.setattr(exporters.making.split, "split", again)
        second = CliRunner().invoke(app, words)
    assert second.exit_code == 0, second.output
    yield Exported(checkpoint, repository, first.output, left, second.output)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_a_full_disk_publishes_nothing_and_a_rerun_goes_on(exported: Exported) -> None:
    assert "model.onnx: the disk is full" in exported.first
    assert "run the same command again" in exported.first
    assert exported.left == []
    assert "(done before)" in exported.second
    assert sorted(path.name for path in exported.repository.parent.iterdir()) == [
        "checkpoint",
        "triton_repo",
    ]


def test_what_is_published_is_what_was_asked_for(exported: Exported) -> None:
    card = Catalog.read(exported.repository).cards["a.small-sd"]

    assert (card.family, card.engine) == ("sd", "onnxruntime")
    assert (card.samplers, card.default_sampler) == (("euler", "ddim"), "euler")
    assert list(card.profiles) == ["32x32", "32x48"]
    assert (card.limits["height"].maximum, card.limits["width"].maximum) == (48, 32)
    assert list(card.parts) == ["a_small_sd__denoiser_1of2", "a_small_sd__denoiser_2of2"]
    assert card.components.triton_models == tuple(card.weights)
    assert sum(card.weights.values()) <= card.resident_bytes
    table = tomllib.loads((exported.repository / "a_small_sd.toml").read_text())
    assert table["source"]["licence"] == "openrail"
    assert table["parity"]["pictures"]["psnr"] >= 60


def test_models_are_listed_checked_and_removed(exported: Exported, tmp_path: Path) -> None:
    repository = shutil.copytree(exported.repository, tmp_path / "triton_repo")
    place = ("--repository", str(repository))

    status, listed = run("models", "list", *place)
    assert (status, "a.small-sd" in listed, "32x32, 32x48" in listed) == (0, True, True)
    assert run("models", "verify", *place)[0] == 0
    with (repository / "a_small_sd__vae_decoder" / "1" / "model.onnx").open("ab") as file:
        file.write(b"x")
    status, told = run("models", "verify", "a.small-sd", *place)
    assert (status, "a_small_sd__vae_decoder/1/model.onnx is not what was exported" in told) == (
        1,
        True,
    )
    assert run("models", "remove", "a.small-sd", *place)[0] == 0
    assert list(repository.iterdir()) == []


def test_a_profile_is_written_into_the_card(exported: Exported, tmp_path: Path) -> None:
    repository = shutil.copytree(exported.repository, tmp_path / "triton_repo")
    place = ("--repository", str(repository))
    before = Catalog.read(repository).cards["a.small-sd"]

    status, told = run("profile", "a.small-sd", "--shapes", "64", "--device", "a toaster", *place)

    assert status == 0, told
    after = Catalog.read(repository).cards["a.small-sd"]
    assert list(after.profiles) == ["32x32", "32x48", "64x64"]
    assert [rows for rows, _ in after.profiles["64x64"].step_seconds] == [1, 2]
    assert (after.version, after.weights) == (before.version, before.weights)
    assert "a toaster" in (repository / "a_small_sd.toml").read_text()
    assert run("models", "verify", *place)[0] == 0
    status, told = run("profile", "b", *place)
    assert (status, "no model b; there are: a.small-sd" in told) == (1, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--samplers", "flow_euler"], "--samplers flow_euler: this model takes ddim, euler"),
        (["--shapes", "30x32"], "--shapes 30x32: both must be multiples of 4"),
        (["--precision", "fp8"], "--precision fp8: there are fp32, fp16, int8"),
        (["--family", "sdxl"], "text_encoder_2"),
        (["--engine", "tensorrt-rtx", "--precision", "int8"], "--precision int8 is for"),
        (["--engine", "tensorrt-rtx", "--capabilities", "SM90"], "knows SM75, SM80"),
        (["--capabilities", "SM86"], "--capabilities is for --engine tensorrt-rtx"),
        (["--name", "../x"], "--name '../x': say letters and digits"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    exported: Exported, tmp_path: Path, words: list[str], why: str
) -> None:
    place = ("--repository", str(tmp_path / "triton_repo"))
    status, told = run("export", str(exported.checkpoint), "--name", "x", *place, *words)

    assert status == 1
    assert why in told
    assert list(tmp_path.iterdir()) == []


def test_a_name_whose_files_are_another_models_is_refused(exported: Exported) -> None:
    place = ("--repository", str(exported.repository))

    status, told = run("export", str(exported.checkpoint), "--name", "a-small.sd", *place)

    assert status == 1
    assert "a_small_sd.toml is a.small-sd's; choose another name" in told
    assert run("models", "verify", "a.small-sd", *place)[0] == 0


def test_a_repository_that_is_a_mount_is_refused_before_any_work(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (repository := tmp_path / "triton_repo").mkdir()
    monkeypatch.setattr(Path, "rename", across)
    place = ("--repository", str(repository))
    status, told = run("export", str(exported.checkpoint), "--name", "x", *place)

    assert status == 1
    assert "mounted by itself" in told and f"{repository}/models" in told
    assert list(tmp_path.rglob("*")) == [repository]


def test_a_config_that_says_too_little_is_told(exported: Exported, tmp_path: Path) -> None:
    folder = shutil.copytree(exported.checkpoint, tmp_path / "checkpoint")
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace('"latent_channels"', '"channels_of_latents"'))

    status, told = run("export", str(folder), "--name", "x", "--repository", str(tmp_path / "r"))

    assert (status, "no config.json there says 'latent_channels'" in told) == (1, True)
