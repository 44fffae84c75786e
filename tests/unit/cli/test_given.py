"""Pictures, crops and sizes as a person gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from atelier.cli import given
from atelier.cli.problems import BAD_INPUT, ProblemError, option
from atelier.pictures import MAX_PICTURE_BYTES
from atelier.v1 import generation_pb2 as pb


def test_a_file_is_sent_and_a_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"data")
    assert given.picture("--mask", "a.png") == pb.InputImage(data=b"data")
    for key in ("results/local/g/1/0.png", "inputs/local/x.png"):
        assert given.picture("--mask", key) == pb.InputImage(object_key=key)
    Path("results").mkdir()
    Path("results/mine.png").write_bytes(b"mine")
    assert given.picture("--mask", "results/mine.png") == pb.InputImage(data=b"mine")
    assert given.picture("--mask", "") is None


def test_what_is_no_file_that_can_be_sent(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(MAX_PICTURE_BYTES + 1))
    for text, why in (
        (str(large), "more than 8 MiB"),
        (str(tmp_path / "none.png"), "No such file"),
        (str(tmp_path), "Is a directory"),
        ("x" * 5_000, "File name too long"),
        ("a\0b", "no such name"),
    ):
        with pytest.raises(ProblemError, match=why) as refused:
            given.picture("--init-image", text)
        assert refused.value.status == BAD_INPUT
        assert refused.value.lines[0].startswith("--init-image ")
    large.write_bytes(bytes(MAX_PICTURE_BYTES))
    assert given.picture("--init-image", str(large))


@pytest.mark.parametrize(
    ("text", "crop"),
    [
        (None, None),
        ("400x300+20+10", pb.Crop(width=400, height=300, x=20, y=10)),
        ("1X1+0+0", pb.Crop(width=1, height=1)),
    ],
)
def test_crops(text: str | None, crop: pb.Crop | None) -> None:
    assert given.crop(text) == crop


@pytest.mark.parametrize("text", ["", "400x300", "400x300+20", "400x300-1+2", "1x1+1+9999999999"])
def test_no_crops(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"400x300\+20\+10"):
        given.crop(text)


@pytest.mark.parametrize(
    ("text", "resize"),
    [
        (None, None),
        ("400x300", pb.Resize(width=400, height=300)),
        ("400x", pb.Resize(width=400)),
        ("x300", pb.Resize(height=300)),
        ("0x", pb.Resize(width=0)),
    ],
)
def test_sizes(text: str | None, resize: pb.Resize | None) -> None:
    assert given.resize(text) == resize


@pytest.mark.parametrize("text", ["", "x", "400", "4x4x4", "-4x", "9999999999x"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="400x or x300"):
        given.resize(text)


@pytest.mark.parametrize(
    ("path", "called"),
    [
        ("create.image.init_image", "--init-image"),
        ("create.image.init_image.object_key", "--init-image"),
        ("create.image.output.crop", "--crop"),
        ("create.video.output.thumbnail_size", "--thumbnail"),
        ("create.image.width", "--size (width)"),
        ("create.labels", "create.labels"),
    ],
)
def test_fields_have_the_names_of_options(path: str, called: str) -> None:
    assert option(path) == called
