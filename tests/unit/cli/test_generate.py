"""A generation is followed to its end, through what happens to the gateway meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from io import BytesIO, StringIO
from pathlib import Path

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from grpc_status import rpc_status
from PIL import Image
from rich.console import Console

from atelier.cli import generate as module
from atelier.cli.generate import Wish, _Course
from atelier.cli.problems import BAD_INPUT, ProblemError
from atelier.cli.where import Gateway
from atelier.errors import UnavailableError
from atelier.status import to_status
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import model_pb2

RUNNING, SUCCEEDED = pb.GENERATION_STATE_RUNNING, pb.GENERATION_STATE_SUCCEEDED
Step = pb.GenerationState.ValueType | grpc.StatusCode


def streams(*calls: list[Step]) -> Callable[[], AsyncIterator[pb.GenerateResponse]]:
    """A gateway: what each call of it streams, the last one again and again."""
    left = list(calls)

    async def call() -> AsyncIterator[pb.GenerateResponse]:
        for step in left.pop(0) if len(left) > 1 else left[0]:
            if isinstance(step, grpc.StatusCode):
                raise AioRpcError(step, Metadata(), Metadata(), details="why")
            yield pb.GenerateResponse(generation=pb.Generation(id="0193", state=step))

    return call


@pytest.fixture
def course(monkeypatch: pytest.MonkeyPatch) -> _Course:
    monkeypatch.setattr(module, "AGAIN_SECONDS", (0.0, 0.0))
    return _Course(Gateway("127.0.0.1:1", option="--address 127.0.0.1:1"), Console(file=StringIO()))


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_gateway_that_is_back_soon_goes_on(course: _Course, code: Step) -> None:
    with pytest.raises(ProblemError):
        await course.follow(streams([code]))
    # Two further calls a time: an answer in between gives them back.
    gateway = streams([RUNNING, code], [code], [RUNNING, code], [code], [SUCCEEDED])
    assert (await course.follow(gateway)).state == SUCCEEDED
    assert "the gateway is away; asking again" in course._console.file.getvalue()  # type: ignore[attr-defined]


async def test_what_is_away_is_called_by_its_name(course: _Course) -> None:
    status = rpc_status.to_status(to_status(UnavailableError("the object store is away")))

    async def call() -> AsyncIterator[pb.GenerateResponse]:
        told = Metadata(*status.trailing_metadata)
        for error in [AioRpcError(status.code, Metadata(), told, details=status.details)]:
            raise error
        yield pb.GenerateResponse()

    with pytest.raises(ProblemError, match="the object store is away"):
        await course.follow(call)
    said = course._console.file.getvalue()  # type: ignore[attr-defined]
    assert "the object store is away; asking again" in said
    assert "gateway" not in said


async def test_a_gateway_that_stays_away_leaves_the_id(course: _Course) -> None:
    away = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ProblemError) as caught:
        await course.follow(streams([RUNNING, away], [away]))
    assert "get 0193 --address 127.0.0.1:1" in caught.value.lines[-1]


async def test_what_will_not_pass_is_told_at_once(course: _Course) -> None:
    calls = streams([grpc.StatusCode.INVALID_ARGUMENT], [SUCCEEDED])
    with pytest.raises(ProblemError, match="why") as caught:
        await course.follow(calls)
    assert (caught.value.status, len(caught.value.lines)) == (BAD_INPUT, 1)


def a_picture(color: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 64), color).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
async def test_previews_are_seen_on_terminals_only(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    async def call() -> AsyncIterator[pb.GenerateResponse]:
        for step, color in enumerate(("red", "red", "blue"), 1):
            now = pb.Progress(phase=pb.PHASE_DENOISING, step=step, total_steps=3)
            now.preview, now.preview_step = a_picture(color), max(1, step - 1) if step < 3 else 3
            yield pb.GenerateResponse(generation=pb.Generation(state=RUNNING, progress=now))
        yield pb.GenerateResponse(generation=pb.Generation(state=SUCCEEDED))

    system = "truecolor" if terminal else None
    console = Console(
        file=StringIO(), force_terminal=terminal, color_system=system, width=80, height=24
    )  # fmt: skip
    done = await _Course("127.0.0.1:1", console).follow(call)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert done.state == SUCCEEDED
    # The last one shown is the last one that came; JPEG's blue is not quite blue.
    assert ("38;2;0;0;254" in shown) is terminal and ("▀" in shown) is terminal


async def test_what_is_withheld_is_told_and_the_rest_written(tmp_path: Path) -> None:
    file = a_picture("red")
    kept = pb.Result(
        index=1, content_type="image/jpeg", inline_data=file, sha256=sha256(file).hexdigest()
    )
    made = pb.Generation(id="0193", state=SUCCEEDED, results=[pb.Result(withheld=True), kept])
    console = Console(file=StringIO())
    [written] = await module._keep(made, tmp_path, console, 1.0)
    assert (written.read_bytes(), written.parent) == (file, tmp_path)
    assert "result 0 was withheld" in console.file.getvalue()  # type: ignore[attr-defined]
    del made.results[1]
    with pytest.raises(ProblemError, match="all of it was withheld"):
        await module._keep(made, tmp_path, console, 1.0)


@pytest.mark.parametrize(
    ("wish", "option"),
    [
        (Wish("a star", steps=99999999999), "--steps"),
        (Wish("a star", width=9999999999999), "--size"),
        (Wish("a star", seed=10**23), "--seed"),
        (Wish("a star", count=-(10**12)), "--n"),
    ],
)
def test_a_number_that_cannot_be_sent_names_its_option(wish: Wish, option: str) -> None:
    with pytest.raises(ProblemError, match="out of range") as caught:
        wish.request(model_pb2.Model(name="m"))
    [line] = caught.value.lines
    assert line.startswith(option)
    assert caught.value.status == BAD_INPUT
