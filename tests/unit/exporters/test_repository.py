"""Publishing, sharing, checking and removing models, with files that stand for graphs."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exporters import card
from exporters.errors import ExportError
from exporters.pbtxt import CONFIG_FILE, render
from exporters.publishing import publish
from exporters.repository import (
    cards,
    hashes,
    model_path,
    problems,
    remove,
    shared,
    version_of,
)
from exporters.spec import ExportSpec
from tests.unit.exporters.test_card import FACTS, SPEC


@pytest.fixture(autouse=True)
def _no_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins have none; the committed repository's are checked by `make verify`."""
    monkeypatch.setattr("exporters.repository._signature_problems", lambda *_: iter(()))


def build(root: Path, spec: ExportSpec, content: str) -> None:
    """Write a model's folders into `root`; `content` stands for its weights."""
    for component in spec.components:
        path = model_path(root, component)
        path.parent.mkdir(parents=True)
        path.write_text(f"{content} {component.role}")
        (root / component.name / CONFIG_FILE).write_text(render(component))
    (root / spec.tokenizer_file).write_text("{}")


def built_model(
    repository: Path, built: Path, name: str = "one", content: str = "first", tokens: int = 32
) -> ExportSpec:
    """Build a model in a folder as the pipeline does; returns the spec that it got."""
    own = replace(SPEC, name=name, tokens=tokens)
    build(built, own, content)
    spec = shared(built, repository, own)
    for before, after in zip(own.components, spec.components, strict=True):
        if before.name != after.name and (repository / after.name).is_dir():
            shutil.rmtree(built / before.name)
        elif before.name != after.name:
            (built / before.name).rename(built / after.name)
            (built / after.name / CONFIG_FILE).write_text(render(after))
    files: dict[str, str] = {}
    for component in spec.components:
        root = built if (built / component.name).is_dir() else repository
        files |= hashes(root, (component.name,))
    facts = replace(
        FACTS,
        spec=spec,
        files=files,
        version=version_of(files, FACTS.schedule),
        weights={component.name: 10 for component in spec.components},
    )
    (built / spec.card_file).write_text(card.render(facts))
    return spec


def put(
    repository: Path, name: str = "one", content: str = "first", tokens: int = 32
) -> ExportSpec:
    """Publish a model as the pipeline does; returns the spec that it got."""
    built = repository.parent / f"built-{name}"
    built.mkdir()
    spec = built_model(repository, built, name, content, tokens)
    publish(built, repository, spec.card_file)
    assert [path.name for path in built.iterdir()] == []
    built.rmdir()
    return spec


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repository = tmp_path / "triton_repo"
    put(repository)
    return repository


def test_a_published_model_verifies_and_leaves_nothing_aside(repository: Path):
    assert problems(repository) == []
    assert [path.name for path in repository.parent.iterdir()] == ["triton_repo"]


def test_publishing_again_replaces_the_whole_model(repository: Path):
    stray = repository / "one__denoiser" / "1" / "model.onnx.data"
    stray.write_bytes(b"of an older export")
    old = {name: card.version for name, card in cards(repository).items()}

    put(repository, content="second")

    assert not stray.exists()
    assert problems(repository) == []
    assert {name: card.version for name, card in cards(repository).items()} != old


def test_an_edited_config_is_found(repository: Path):
    config = repository / "one__denoiser" / CONFIG_FILE
    config.write_text(config.read_text().replace("max_batch_size: 16", "max_batch_size: 8"))

    found = problems(repository)

    assert "one.toml: one__denoiser/config.pbtxt is not what the export spec says" in found
    assert "one.toml: one__denoiser/config.pbtxt is not what was exported" in found


def test_changed_missing_and_added_files_are_named(repository: Path):
    model_path(repository, replace(SPEC, name="one").vae_decoder).write_bytes(b"other")
    (repository / "one__text_encoder" / "tokenizer.json").unlink()
    (repository / "one__denoiser" / "1" / "more").write_text("")

    assert problems(repository) == [
        "one.toml: one__denoiser/1/more is not in the card",
        "one.toml: one__text_encoder/tokenizer.json is missing",
        "one.toml: one__vae_decoder/1/model.onnx is not what was exported",
    ]


def test_a_version_that_is_not_its_files_is_found(repository: Path):
    path = repository / "one.toml"
    path.write_text(path.read_text().replace('prediction = "v_p', 'prediction = "epsilon" # "v_p'))

    assert problems(repository) == ["one.toml: version is not the hash of the files: export again"]


def test_a_model_without_a_card_is_found(repository: Path):
    (repository / "lost__denoiser").mkdir()

    assert problems(repository) == ["lost__denoiser: belongs to no card"]


def test_what_is_the_same_byte_for_byte_is_there_once(repository: Path):
    spec = put(repository, "two")

    assert [component.name for component in spec.components] == [
        "one__text_encoder",
        "one__denoiser",
        "one__vae_decoder",
        "one__vae_encoder",
    ]
    assert not list(repository.glob("two__*"))
    assert problems(repository) == []


def test_what_was_spoilt_on_the_disk_is_not_shared(repository: Path):
    spoilt = repository / "one__denoiser" / "1" / "model.onnx"
    spoilt.write_text("not what its card says")

    spec = put(repository, "two")

    assert [component.name for component in spec.components][1] == "two__denoiser"
    assert problems(repository, "two") == []


def test_another_config_is_another_model(repository: Path):
    spec = put(repository, "two", tokens=77)

    assert [component.name for component in spec.components] == [
        "two__text_encoder",
        "two__denoiser",
        "one__vae_decoder",
        "one__vae_encoder",
    ]
    assert problems(repository) == []


def test_an_owner_that_changes_leaves_to_others_what_they_share(repository: Path):
    put(repository, "two")

    spec = put(repository, "one", content="second")

    assert all(name.startswith("one__") for name in spec.names.values())
    assert spec.names["denoiser"] != "one__denoiser"
    assert problems(repository) == []
    two = cards(repository)[repository / "two.toml"]
    assert two.components.denoiser == "one__denoiser"


def test_removing_a_model_leaves_what_others_share(repository: Path):
    put(repository, "two", tokens=77)

    assert remove(repository, "one") == ["one__denoiser", "one__text_encoder"]
    assert problems(repository) == []
    assert remove(repository, "two") == [
        "one__vae_decoder",
        "one__vae_encoder",
        "two__denoiser",
        "two__text_encoder",
    ]
    assert list(repository.iterdir()) == []
    with pytest.raises(ExportError, match="no model two; there are: none"):
        remove(repository, "two")


def test_one_model_is_checked_alone(repository: Path):
    put(repository, "two", content="other")
    (repository / "one__denoiser" / CONFIG_FILE).unlink()

    assert problems(repository, "two") == []
    assert problems(repository, "one") != []
    assert problems(repository, "three") == [f"{repository}: no model three"]
