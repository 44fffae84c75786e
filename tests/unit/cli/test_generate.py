"""A generation is followed to its end, through what happens to the gateway meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from io import StringIO

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from rich.console import Console

from atelier.cli import generate as module
from atelier.cli.generate import Wish, _Course
from atelier.cli.problems import BAD_INPUT, ProblemError
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
    return _Course("127.0.0.1:1", Console(file=StringIO()))


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_gateway_that_is_back_soon_goes_on(course: _Course, code: Step) -> None:
    with pytest.raises(ProblemError):
        await course.follow(streams([code]))
    # Two further calls a time: an answer in between gives them back.
    gateway = streams([RUNNING, code], [code], [RUNNING, code], [code], [SUCCEEDED])
    assert (await course.follow(gateway)).state == SUCCEEDED
    assert "the gateway is away; asking again" in course._console.file.getvalue()  # type: ignore[attr-defined]


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
