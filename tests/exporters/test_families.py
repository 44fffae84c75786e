"""Each family from a small random checkpoint to a published model, by the whole command.

Parity is the command's own gate: every component against torch, and whole pictures against
diffusers' pipeline from the same noise. These tests say that the gate was passed with room.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers")

from rich.console import Console

from atelier.catalog import Catalog, ModelCard
from exporters.checkpoint import Options
from exporters.job import Request
from exporters.pipeline import export_model
from exporters.progress import Show
from exporters.repository import problems
from tests.support import checkpoints


@dataclass(frozen=True)
class Case:
    kind: str
    samplers: tuple[str, ...]
    family: str = "auto"
    precision: str = "fp32"
    options: Options = field(default_factory=Options)
    min_psnr: float = 60.0


pytestmark = pytest.mark.timeout(1800)  # minutes on a busy machine

QUICK = [
    Case("sd3", ("flow_euler",), options=Options(text_tokens=12)),
]
OTHERS = [
    Case("wan", ("flow_euler",), options=Options(text_tokens=12, frames=5)),
    Case("sd", ("ddim", "euler"), precision="fp16", min_psnr=40.0),
    Case("sd-inpaint", ("ddim", "euler")),
    Case("sd-turbo", ("euler", "euler_ancestral"), family="sd-turbo"),
    Case("lcm", ("lcm",)),
    Case("sdxl", ("euler", "ddim")),
    Case("sdxl", ("euler_ancestral", "euler"), family="sdxl-turbo"),
    Case("sd3", ("flow_euler",), precision="fp16", options=Options(text_tokens=12), min_psnr=40.0),
]


def export(case: Case, folder: Path) -> tuple[Path, ModelCard, dict[str, object]]:
    repository = folder / "triton_repo"
    request = Request(
        folder=checkpoints.make(case.kind, folder / "checkpoint"),
        name=f"a-{case.kind}",
        repository=repository,
        family=case.family,
        precision=case.precision,
        shapes=[(32, 32)],
        max_batch=2,
        options=case.options,
    )
    export_model(request, Show(Console(quiet=True)))
    card = Catalog.read(repository).get(f"a-{case.kind}")
    assert card is not None
    table = tomllib.loads((repository / f"a_{case.kind.replace('-', '_')}.toml").read_text())
    return repository, card, table


def check(case: Case, folder: Path) -> None:
    repository, card, table = export(case, folder)

    assert card.samplers[: len(case.samplers)] == case.samplers
    assert card.family == (case.kind if case.family == "auto" else case.family)
    assert table["parity"]["pictures"]["psnr"] >= case.min_psnr
    assert problems(repository) == []
    assert card.components.vae_encoder == f"a_{case.kind.replace('-', '_')}__vae_encoder"
    assert set(card.weights) == set(card.components.triton_models)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "triton_repo"]


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=lambda case: f"{case.kind}-{case.precision}")
def test_a_family_is_exported_and_draws_what_diffusers_draws(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case.kind}-{case.precision}")
def test_so_is_every_other(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.full
def test_int8_is_calibrated_gated_and_published(tmp_path: Path) -> None:
    """On a model that was really trained: random weights have no ranges worth learning."""
    repository = tmp_path / "triton_repo"
    trained = Path(__file__).parents[2] / "checkpoints" / "tiny-image"
    request = Request(trained, "tiny-int8", repository, precision="int8", max_batch=8)

    export_model(request, Show(Console(quiet=True)))

    card = Catalog.read(repository).cards["tiny-int8"]
    halves = Catalog.read(Path(__file__).parents[2] / "triton_repo").cards["tiny-image"]
    table = tomllib.loads((repository / "tiny_int8.toml").read_text())
    assert table["parity"]["pictures"]["psnr"] >= 20
    assert 0.005 < table["parity"]["tiny_int8__denoiser.next_latents"]["relative_l2"] < 0.1
    assert 30 < table["parity"]["tiny_int8__vae_decoder.images"]["psnr"] < 60
    assert card.weights["tiny_int8__denoiser"] < 0.4 * halves.weights["tiny_image__denoiser"]
    assert problems(repository) == []


@pytest.mark.full
def test_engines_are_built_by_the_command(tmp_path: Path) -> None:
    """TensorRT-RTX, which needs no GPU to build; what is in an engine is read back elsewhere."""
    pytest.importorskip("tensorrt_rtx", reason="the tensorrt extra is not installed")
    repository = tmp_path / "triton_repo"
    request = Request(
        checkpoints.make("sd", tmp_path / "checkpoint"),
        "engines",
        repository,
        precision="fp16",
        engine="tensorrt-rtx",
        shapes=[(32, 32)],
        max_batch=2,
    )

    export_model(request, Show(Console(quiet=True)))

    card = Catalog.read(repository).cards["engines"]
    assert card.engine == "tensorrt-rtx"
    assert problems(repository) == []
    for name in card.components.triton_models:
        assert (repository / name / "1" / "model.plan").stat().st_size > 100_000
        assert 'backend: "tensorrt_rtx"' in (repository / name / "config.pbtxt").read_text()
        assert not list((repository / name / "1").glob("*.onnx"))


@pytest.mark.parametrize("name", ["tiny-image", "tiny-video"])
def test_the_committed_entries_are_what_the_command_writes(name: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    repository = tmp_path / "triton_repo"

    export_model(Request(root / "checkpoints" / name, name, repository), Show(Console(quiet=True)))

    written, committed = (Catalog.read(r).cards[name] for r in (repository, root / "triton_repo"))
    assert written.version == committed.version  # of every file, byte for byte
    assert written.limits == committed.limits
    assert written.weights == committed.weights
    assert (written.samplers, written.presets) == (committed.samplers, committed.presets)
    assert written.preview and committed.preview
    # Another processor's last digits may move the fourth decimal.
    np.testing.assert_allclose(written.preview.factors, committed.preview.factors, atol=1e-3)
    np.testing.assert_allclose(written.preview.bias, committed.preview.bias, atol=1e-3)
