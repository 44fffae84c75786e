"""The commands as a person calls them, where nothing runs."""

import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from atelier.cli import hints
from atelier.cli.__main__ import app, parse_size
from atelier.cli.generate import describe
from atelier.cli.problems import BAD_INPUT, ProblemError, option
from atelier.cli.wish import Wish
from atelier.v1 import generation_pb2, model_pb2

run = CliRunner().invoke
KEY = generation_pb2.InputImage(object_key="results/local/g/1/0.png")
CROP = generation_pb2.Crop(x=20, y=10, width=400, height=300)
RESIZE = generation_pb2.Resize(height=64)


def test_size() -> None:
    assert parse_size("512x768") == (512, 768)
    assert parse_size("64") == (64, 64)
    assert parse_size(None) == (None, None)


@pytest.mark.parametrize("size", ["x", "big", "64x64x64"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(typer.BadParameter, match="512x768"):
        parse_size(size)


def test_generate_without_a_stack_says_how_to_start_one(tmp_path: Path) -> None:
    result = run(app, ["generate", "a star", "--state-dir", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "atelier up" in result.output


def test_generate_into_nowhere_asks_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = ["generate", "a star", "--address", "127.0.0.1:1", "-o", str(tmp_path / "file" / "x")]
    result = run(app, command)
    assert result.exit_code == 1
    assert "cannot write to" in result.output


def test_generate_with_a_bad_size_is_bad_input(tmp_path: Path) -> None:
    assert run(app, ["generate", "a star", "--size", "big"]).exit_code == 2


def test_ps_and_down_where_nothing_runs(tmp_path: Path) -> None:
    for command in ("ps", "down"):
        result = run(app, [command, "--state-dir", str(tmp_path)])
        assert (result.exit_code, "nothing" in result.output) == (0, True)


def test_doctor_where_nothing_runs(tmp_path: Path) -> None:
    result = run(app, ["doctor", "--state-dir", str(tmp_path)])
    assert "start it with" in result.output
    assert "wrong" not in result.output.replace("nothing is wrong", "")


def test_only_what_was_asked_for_is_sent() -> None:
    model = model_pb2.Model(name="m", kind=model_pb2.MODEL_KIND_IMAGE)
    request = Wish("a star", seed=0, count=2).request(model)
    assert request.inline_results
    assert request.create.image == generation_pb2.ImageSpec(prompt="a star", seed=0, count=2)
    assert request.create.request_id != Wish("a star").request(model).create.request_id


def test_a_webhook_is_asked_for_and_what_is_wrong_with_it_told_by_its_option() -> None:
    model = model_pb2.Model(name="m", kind=model_pb2.MODEL_KIND_IMAGE)
    url = "https://hooks.example.org/"
    assert Wish("a star", webhook_url=url).request(model).create.webhook_url == url
    assert not Wish("a star").request(model).create.webhook_url
    assert option("webhook_url") == "--webhook"


def test_a_video_model_gets_a_video_spec() -> None:
    model = model_pb2.Model(name="m", kind=model_pb2.MODEL_KIND_VIDEO)
    request = Wish("a star", steps=4, fps=12).request(model)
    wanted = generation_pb2.VideoSpec(prompt="a star", steps=4, frames_per_second=12)
    assert request.create.video == wanted
    wanted.output.format = generation_pb2.VIDEO_FORMAT_WEBM
    given = Wish("a star", steps=4, fps=12, format="webm").request(model)
    assert given.create.video == wanted


def test_how_a_file_is_written_is_sent_where_it_was_said() -> None:
    model = model_pb2.Model(name="m", kind=model_pb2.MODEL_KIND_IMAGE)
    wish = Wish("a star", format="jpg", quality=70, metadata=False)
    assert wish.request(model).create.image.output == generation_pb2.ImageOutput(
        format=generation_pb2.IMAGE_FORMAT_JPEG, quality=70, omit_metadata=True
    )


@pytest.mark.parametrize(
    ("kind", "wish", "told"),
    [
        ("VIDEO", Wish("a star", count=2), "--n: m makes videos; leave it out"),
        ("IMAGE", Wish("a star", fps=8), "--fps: m makes pictures; leave it out"),
        ("VIDEO", Wish("a star", format="gif"), "--format gif: m makes videos: say mp4, webm"),
        (
            "IMAGE",
            Wish("a star", format="webm"),
            "--format webm: m makes pictures: say png, jpeg, webp, avif",
        ),
        ("VIDEO", Wish("a star", quality=9), "--quality: m makes videos; leave it out"),
        ("VIDEO", Wish("a star", strength=0.5), "--strength: m makes videos; leave it out"),
        ("VIDEO", Wish("a star", init_image=KEY), "--init-image: m makes videos; leave it out"),
        ("VIDEO", Wish("a star", mask=KEY), "--mask: m makes videos; leave it out"),
        ("VIDEO", Wish("a star", crop=CROP), "--crop: m makes videos; leave it out"),
        ("VIDEO", Wish("a star", resize=RESIZE), "--resize: m makes videos; leave it out"),
        ("IMAGE", Wish("a star", first_frame=KEY), "--first-frame: m makes pictures; leave it out"),
    ],
)
def test_what_a_model_has_no_use_for_is_refused(kind: str, wish: Wish, told: str) -> None:
    model = model_pb2.Model(name="m", kind=model_pb2.ModelKind.Value(f"MODEL_KIND_{kind}"))
    with pytest.raises(ProblemError) as refused:
        wish.request(model)
    assert (refused.value.lines, refused.value.status) == ([told], BAD_INPUT)


def test_pictures_and_sizes_are_sent() -> None:
    image = model_pb2.Model(name="m", kind=model_pb2.MODEL_KIND_IMAGE)
    wish = Wish("a star", init_image=KEY, mask=KEY, strength=0.5, thumbnail=10**12, crop=CROP,
                resize=RESIZE)  # fmt: skip
    output = generation_pb2.ImageOutput(thumbnail_size=2**31 - 1, crop=CROP, resize=RESIZE)
    assert wish.request(image).create.image == generation_pb2.ImageSpec(
        prompt="a star", init_image=KEY, mask_image=KEY, strength=0.5, output=output
    )
    video = model_pb2.Model(name="m", kind=model_pb2.MODEL_KIND_VIDEO)
    wish = Wish("a star", first_frame=KEY, thumbnail=32)
    assert wish.request(video).create.video == generation_pb2.VideoSpec(
        prompt="a star", first_frame=KEY, output=generation_pb2.VideoOutput(thumbnail_size=32)
    )


def test_the_model_that_is_taken_can_do_what_is_asked() -> None:
    plain = model_pb2.Model(kind=model_pb2.MODEL_KIND_IMAGE)
    starts = model_pb2.Model(kind=model_pb2.MODEL_KIND_IMAGE, takes_images=True)
    film = model_pb2.Model(kind=model_pb2.MODEL_KIND_VIDEO)
    begins = model_pb2.Model(kind=model_pb2.MODEL_KIND_VIDEO, takes_first_frame=True)
    models = (plain, starts, film, begins)
    suits = [
        [wish.suits(model) for model in models]
        for wish in (Wish("x"), Wish("x", init_image=KEY), Wish("x", first_frame=KEY))
    ]
    assert suits == [
        [True, True, False, False],
        [False, True, False, False],
        [False, False, False, True],
    ]


def test_a_format_that_the_file_s_name_contradicts_is_bad_input(tmp_path: Path) -> None:
    command = ["generate", "a star", "--address", "127.0.0.1:1", "--format", "jpeg"]
    result = run(app, [*command, "-o", str(tmp_path / "a.png")])
    assert result.exit_code == BAD_INPUT
    assert "--format jpeg and --out" in result.output and "leave out --format" in result.output


@pytest.mark.parametrize("option", ["--init-image", "--mask", "--first-frame"])
def test_a_picture_that_is_not_there_is_bad_input(tmp_path: Path, option: str) -> None:
    command = ["generate", "a star", "--address", "127.0.0.1:1", option, str(tmp_path / "no.png")]
    result = run(app, command)
    assert result.exit_code == BAD_INPUT
    assert f"{option} {tmp_path}" in result.output and "No such file" in result.output


def test_phases_have_words() -> None:
    generation = generation_pb2.Generation(model="m")
    assert describe(generation) == "queued"
    generation.progress.queue_position = 3
    assert describe(generation) == "queued, 3 before it"
    for phase in generation_pb2.Phase.values():
        generation.progress.phase = phase
        assert describe(generation)


def test_hints_are_quoted() -> None:
    line = hints.grpcurl("127.0.0.1:1", ".state/key", "m", "it's a star")
    assert line.startswith("KEY=$(cat .state/key) grpcurl -plaintext -expand-headers")
    assert shlex.split(line)[8].startswith('{"create"')
    assert hints.command("atelier", "my state", "a b") == (
        "atelier generate --state-dir 'my state' 'a b'"
    )
    compile(hints.python("127.0.0.1:1", ".state/key", "m", 'a "star"'), "hint", "exec")
