"""A card names a checker that answers as it must, vouches for its files, and keeps it."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from atelier.catalog import Catalog, Safety
from atelier.config import model_repository
from exporters.__main__ import app
from exporters.errors import ExportError
from exporters.guard import carried, guard, unguard
from exporters.measure import Cost
from exporters.profile import _write
from exporters.repository import problems, remove
from tests.support.red_guard import GUARD, put_red_guard

MODEL, CARD = "tiny-image", "tiny_image.toml"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """tiny-image, and a checker that nobody names yet."""
    folder = tmp_path / "models"
    shutil.copytree(model_repository(), folder, ignore=shutil.ignore_patterns("tiny_video*"))
    put_red_guard(folder)
    return folder


def card_of(repository: Path):  # type: ignore[no-untyped-def]
    return Catalog.read(repository).cards[MODEL]


def test_a_guarded_card_tells_all_that_serving_needs(repository: Path) -> None:
    before = card_of(repository)
    guard(repository, MODEL, Safety(GUARD, threshold=0.2))
    after = card_of(repository)
    size = (repository / GUARD / "1" / "model.onnx").stat().st_size
    assert after.safety == Safety(GUARD, "images", "unsafe", 0.2)
    assert after.weights == {**before.weights, GUARD: size}
    assert after.resident_bytes == before.resident_bytes + size
    assert after.version == before.version  # the same pictures are made
    assert problems(repository) == []
    guard(repository, MODEL, Safety(GUARD, threshold=0.4))  # again: in its place
    assert card_of(repository).resident_bytes == after.resident_bytes
    assert unguard(repository, MODEL) == GUARD
    assert card_of(repository) == before and (repository / GUARD).is_dir()


def test_a_checker_that_was_changed_is_found(repository: Path) -> None:
    guard(repository, MODEL, Safety(GUARD))
    (repository / GUARD / "1" / "model.onnx").write_bytes(b"another")
    assert problems(repository) == [f"{CARD}: {GUARD}/1/model.onnx is not what was exported"]


def test_an_export_of_the_same_model_keeps_its_checker(repository: Path) -> None:
    fresh = (repository / CARD).read_text()
    assert carried(fresh, repository / CARD) == fresh
    assert carried(fresh, repository / "none.toml") == fresh
    guard(repository, MODEL, Safety(GUARD, threshold=0.2))
    kept = carried(fresh, repository / CARD)
    assert tomllib.loads(kept) == tomllib.loads((repository / CARD).read_text())


def test_a_profile_counts_the_checker_beside_what_it_measured(repository: Path) -> None:
    guard(repository, MODEL, Safety(GUARD))
    card = card_of(repository)
    costs = {"denoiser": Cost(1.0, 50 << 20, 1, ((1, 0.1),))}
    _write(repository / CARD, card, {"64x64": costs}, "a toaster")
    after = card_of(repository)
    assert after.safety == card.safety
    assert after.resident_bytes == (50 << 20) + card.weights[GUARD]


def test_removing_a_model_leaves_the_checker_that_was_brought(repository: Path) -> None:
    guard(repository, MODEL, Safety(GUARD))
    assert GUARD not in remove(repository, MODEL)
    assert (repository / GUARD / "config.pbtxt").is_file()


@pytest.mark.parametrize(
    ("safety", "why"),
    [
        (Safety("nobody"), "no config.pbtxt"),
        (Safety("tiny_image__vae_decoder"), "is a part of tiny-image"),
        (Safety(GUARD, input="pictures"), "cannot tell unsafe of pictures"),
        (Safety(GUARD, output="safe"), "cannot tell safe of images"),
    ],
)
def test_what_is_no_checker_is_refused(repository: Path, safety: Safety, why: str) -> None:
    text = (repository / CARD).read_text()
    with pytest.raises(ExportError, match=why):
        guard(repository, MODEL, safety)
    assert (repository / CARD).read_text() == text


def test_a_checker_that_takes_too_few_or_tells_too_much_is_refused(repository: Path) -> None:
    config = repository / GUARD / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 16", "max_batch_size: 4"))
    with pytest.raises(ExportError, match="takes 4 pictures a call, and tiny-image may send 16"):
        guard(repository, MODEL, Safety(GUARD))
    config.write_text(config.read_text().replace("max_batch_size: 4", "max_batch_size: 16"))
    path = str(repository / GUARD / "1" / "model.onnx")
    model = onnx.load(path)
    model.graph.output[0].name = "reddish"  # a score for each pixel
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for side in ("n", "h", "w", "one"):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = side
    onnx.save(model, path)
    with pytest.raises(ExportError, match=r"float32 \[1, 64, 64, 1\] for 1 pictures"):
        guard(repository, MODEL, Safety(GUARD, output="reddish"))


def test_the_command_says_what_it_did_or_why_not(repository: Path) -> None:
    def say(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["models", *words, "--repository", str(repository)])
        return done.exit_code, " ".join(done.output.split())

    assert say("guard", MODEL, "nobody")[0] == 1
    code, told = say("guard", MODEL, GUARD, "--threshold", "0.2")
    assert code == 0 and f"what {GUARD} scores above 0.2 is withheld" in told
    code, told = say("unguard", MODEL)
    assert code == 0 and "its files stay" in told
    assert say("unguard", MODEL) == (1, f"{MODEL} has no safety checker")
