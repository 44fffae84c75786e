"""What is wrong with a checkpoint is told before anything is exported, by the file's name."""

# ruff: noqa: E402 - what the export extra brings is imported where it is there

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file

from exporters.checkpoint import Checkpoint, Options
from exporters.errors import CheckpointError
from exporters.families import FAMILIES, family_of
from tests.support.checkpoints import MAKERS, edit_json, make

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("sd", tmp_path_factory.mktemp("sd") / "checkpoint")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "checkpoint")


def read(folder: Path) -> Checkpoint:
    """As far as the exporter reads before it traces."""
    checkpoint = Checkpoint.open(folder)
    family = family_of(checkpoint.index, checkpoint.configs)
    checkpoint.require(family.parts)
    for part in family.parts:
        if part != "scheduler":
            checkpoint.check_weights(part, lambda _: None)
        if part in checkpoint.configs:
            checkpoint.load(part)
    return checkpoint


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> str:
    """Change the tensors of a file; returns the name of the first."""
    tensors = load_file(path)
    first = sorted(name for name in tensors if name.endswith("weight"))[0]
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return first


def test_a_whole_checkpoint_is_read(folder: Path) -> None:
    assert read(folder).licence == "not stated by the checkpoint"
    (folder / "README.md").write_text("---\nlicense: openrail\n---\n# A model\n")
    assert read(folder).licence == "openrail"


def test_parts_that_no_export_needs_may_be_anything(folder: Path) -> None:
    """As in every published Stable Diffusion 1: a checker of its own class, and no config.json."""
    edit_json(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    (folder / "feature_extractor").mkdir()
    assert set(read(folder).configs) == {"text_encoder", "unet", "vae"}


def test_other_files_beside_the_weights_are_not_looked_at(folder: Path) -> None:
    weights = folder / UNET
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    weights.with_name("diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    assert read(folder).weight_files("unet") == [weights]
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"fp16\.safetensors: a variant, .* rename it"):
        read(folder)


@pytest.mark.parametrize(
    "file",
    ["model_index.json", "unet/config.json", UNET, TEXT, "scheduler/scheduler_config.json"],
)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    expected = file if file.endswith("json") else str(Path(file).parent)
    with pytest.raises(CheckpointError, match=str(folder / expected)):
        read(folder)


def test_a_tokenizer_without_its_vocabulary_is_refused(folder: Path) -> None:
    """transformers would make up one that knows no word, and say nothing."""
    for path in (folder / "tokenizer").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer/tokenizer\.json: missing"):
        read(folder)


def test_a_missing_folder_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(CheckpointError, match="tokenizer: missing; this family needs it"):
        read(folder)


def test_a_shard_that_the_index_names_must_be_there(folder: Path) -> None:
    weights = {"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps(weights))
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors: missing"):
        read(folder)


def test_a_pickle_is_refused_and_never_opened(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "run",)

    (folder / UNET).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin: a pickle"):
        read(folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("file", [UNET, TEXT])
def test_weights_that_are_no_numbers_are_named(folder: Path, file: str, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[sorted(n for n in tensors if n.endswith("weight"))[0]].view(-1)[-1] = value

    first = rewrite(folder / file, spoil)
    with pytest.raises(CheckpointError, match=f"{file}: {first} holds values"):
        read(folder)


@pytest.mark.parametrize("file", [UNET, TEXT])
def test_a_tensor_of_another_shape_is_named(folder: Path, file: str) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        name = sorted(n for n in tensors if n.endswith("weight"))[0]
        tensors[name] = torch.zeros(3, 5)

    first = rewrite(folder / file, spoil)
    with pytest.raises(CheckpointError, match=rf"{file}: .*{first}[^\n]*$"):
        read(folder)


@pytest.mark.parametrize("file", [UNET, TEXT])
def test_a_missing_tensor_is_named(folder: Path, file: str) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[sorted(n for n in tensors if n.endswith("weight"))[0]]

    first = rewrite(folder / file, spoil)
    with pytest.raises(CheckpointError, match=f"{file}: {first} is missing"):
        read(folder)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_file_cut_short_is_named(folder: Path, size: int) -> None:
    with (folder / UNET).open("r+b") as file:
        file.truncate(size)
    with pytest.raises(CheckpointError, match=f"{UNET}: not a whole safetensors file"):
        read(folder)


def test_code_of_the_checkpoints_own_is_never_loaded(folder: Path) -> None:
    edit_json(folder / "model_index.json", unet=["my_unet", "MyUNet"])
    with pytest.raises(CheckpointError, match=r"unet is my_unet\.MyUNet; only classes of"):
        read(folder)


def test_an_unknown_pipeline_is_told_what_is_known(folder: Path) -> None:
    edit_json(folder / "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(CheckpointError, match=r"'KandinskyPipeline'; supported are .*WanPipeline"):
        read(folder)


def test_a_denoiser_of_other_channels_is_refused(folder: Path) -> None:
    edit_json(folder / "unet" / "config.json", in_channels=7)
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="in_channels is 7"):
        FAMILIES["sd"].spec(checkpoint, "x")


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "sd-turbo"])
def test_the_family_is_seen_in_the_folder(kind: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make(kind, tmp_path))
    assert family_of(checkpoint.index, checkpoint.configs).name == kind
    assert family_of(checkpoint.index, checkpoint.configs, "sd-turbo").name == "sd-turbo"
    with pytest.raises(CheckpointError, match="--family sd9: there are"):
        family_of(checkpoint.index, checkpoint.configs, "sd9")


def test_a_clips_length_must_be_what_the_autoencoder_can_take(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make("wan", tmp_path), Options(frames=7))
    with pytest.raises(CheckpointError, match="--frames 7: must be a multiple of 4, and one more"):
        FAMILIES["wan"].spec(checkpoint, "x")
