"""atelier.client against a gateway that does what a test says: refuses, is away, cuts a stream."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.client import AsyncClient, AtelierError, Client, GenerationError, failures, image
from atelier.errors import InvalidArgumentError, NotFoundError, UnavailableError, Violation
from atelier.service import serving
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc
from tests.support.ports import free_address

PNG = b"a file"
RING = image("toy", "a ring", seed=7)


def view(state: int, **fields: Any) -> pb.Generation:
    return pb.Generation(id="1", state=state, **fields)  # type: ignore[arg-type]


QUEUED = view(pb.GENERATION_STATE_QUEUED)
STEP = view(pb.GENERATION_STATE_RUNNING, progress=pb.Progress(step=3))
DONE = view(
    pb.GENERATION_STATE_SUCCEEDED,
    results=[pb.Result(inline_data=PNG, sha256=hashlib.sha256(PNG).hexdigest())],
)
AWAY = UnavailableError("away", retry_after_seconds=0.01)


class Door(generation_pb2_grpc.GenerationServiceServicer):
    """Each call does the next thing of its script: answer, or raise."""

    def __init__(self) -> None:
        self.creates: list[pb.CreateGenerationRequest] = []
        self.keys: list[str] = []
        self.create: list[pb.Generation | Exception] = [QUEUED]
        self.watches: list[list[pb.Generation | Exception]] = [[QUEUED, STEP, DONE]]
        self.pages: list[tuple[list[str], str]] = []
        self.asked: list[pb.ListGenerationsRequest] = []

    async def CreateGeneration(
        self, request: pb.CreateGenerationRequest, context: Any
    ) -> pb.CreateGenerationResponse:
        self.creates.append(request)
        self.keys += [value for name, value in context.invocation_metadata() if name[0] == "a"]
        return pb.CreateGenerationResponse(generation=_said(self.create.pop(0)))

    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: Any
    ) -> pb.CancelGenerationResponse:
        raise NotFoundError(f"there is no generation {request.id}")

    async def ListGenerations(
        self, request: pb.ListGenerationsRequest, context: Any
    ) -> pb.ListGenerationsResponse:
        self.asked.append(request)
        ids, token = self.pages.pop(0)
        return pb.ListGenerationsResponse(
            generations=[pb.Generation(id=one) for one in ids], next_page_token=token
        )

    async def WatchGeneration(
        self, request: pb.WatchGenerationRequest, context: Any
    ) -> AsyncIterator[pb.WatchGenerationResponse]:
        for one in self.watches.pop(0):
            yield pb.WatchGenerationResponse(generation=_said(one))


def _said(one: pb.Generation | Exception) -> pb.Generation:
    if isinstance(one, Exception):
        raise one
    return one


@asynccontextmanager
async def served(door: Door) -> AsyncIterator[str]:
    def register(server: grpc.aio.Server) -> None:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(door, server)

    address = free_address()
    async with serving(address, [], register):
        yield address


Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["plain", "asyncio"])
def calling(request: pytest.FixtureRequest) -> Call:
    """calling(address, method, ...): by either client; a stream is answered as a list."""

    def plain(address: str, method: str, *args: Any, **options: Any) -> Any:
        with Client(address, key="k1") as client:
            answer = getattr(client, method)(*args, **options)
            return list(answer) if method in ("list", "watch") else answer

    async def in_loop(address: str, method: str, *args: Any, **options: Any) -> Any:
        if request.param == "plain":
            return await asyncio.to_thread(plain, address, method, *args, **options)
        async with AsyncClient(address, key="k1") as client:
            answer = getattr(client, method)(*args, **options)
            return [one async for one in answer] if method in ("list", "watch") else await answer

    return in_loop


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setattr(failures, "PAUSES_SECONDS", (0.0,) * 3)
    return Door()


async def test_a_create_is_tried_again_as_the_same_request(door: Door, calling: Call) -> None:
    door.create = [AWAY, AWAY, QUEUED]
    request = pb.CreateGenerationRequest(model="toy", image=pb.ImageSpec(prompt="a ring"))
    async with served(door) as address:
        assert await calling(address, "create", request) == QUEUED
    assert len(door.creates) == 3
    assert {one.request_id for one in door.creates} != {""}
    assert len({one.request_id for one in door.creates}) == 1
    assert door.keys == ["Bearer k1"] * 3


async def test_what_will_not_pass_is_not_tried_again(door: Door, calling: Call) -> None:
    wrong = Violation("image.width", "must be 64 pixels; got 0")
    door.create = [InvalidArgumentError([wrong])]
    async with served(door) as address:
        with pytest.raises(AtelierError) as refused:
            await calling(address, "create", RING)
        with pytest.raises(AtelierError, match="no generation 9") as unknown:
            await calling(address, "cancel", "9")
    assert refused.value.code == "INVALID_ARGUMENT" and refused.value.violations == (wrong,)
    assert unknown.value.reason == "NOT_FOUND"
    assert len(door.creates) == 1


async def test_what_lasts_is_raised_with_its_reason(door: Door, calling: Call) -> None:
    door.create = [AWAY] * 4
    async with served(door) as address:
        with pytest.raises(AtelierError) as away:
            await calling(address, "create", RING)
    assert (away.value.code, away.value.retry_after_seconds) == ("UNAVAILABLE", 0.01)
    assert door.create == []
    with pytest.raises(AtelierError) as nobody:
        await calling(free_address(), "create", RING)
    assert nobody.value.code == "UNAVAILABLE"


async def test_no_pause_outlasts_the_deadline(door: Door, calling: Call) -> None:
    door.create = [UnavailableError("away", retry_after_seconds=60.0)]
    async with served(door) as address:
        with pytest.raises(AtelierError, match="away"):
            await calling(address, "create", RING, timeout=5.0)


async def test_a_watch_that_is_cut_is_taken_up_again(door: Door, calling: Call) -> None:
    door.watches = [[QUEUED, STEP, AWAY], [AWAY], [STEP, DONE]]
    async with served(door) as address:
        assert await calling(address, "watch", "1") == [QUEUED, STEP, DONE]
    assert door.watches == []


async def test_a_picture_comes_into_its_file(door: Door, calling: Call, tmp_path: Path) -> None:
    seen: list[int] = []
    async with served(door) as address:
        written = await calling(
            address,
            "generate_to_file",
            RING,
            tmp_path / "ring.png",
            progress=lambda generation: seen.append(generation.progress.step),
        )
    assert seen == [0, 3, 0]
    assert written == [tmp_path / "ring.png"] and written[0].read_bytes() == PNG


async def test_a_damaged_picture_is_not_written(door: Door, calling: Call, tmp_path: Path) -> None:
    damaged = pb.Result(inline_data=PNG, sha256="0" * 64)
    door.watches = [[view(pb.GENERATION_STATE_SUCCEEDED, results=[damaged])]]
    async with served(door) as address:
        with pytest.raises(AtelierError, match="damaged"):
            await calling(address, "generate_to_file", RING, tmp_path / "ring.png")
    assert not (tmp_path / "ring.png").exists()


async def test_an_end_without_results_is_an_error(door: Door, calling: Call) -> None:
    door.watches = [[view(pb.GENERATION_STATE_EXPIRED)]]
    async with served(door) as address:
        with pytest.raises(GenerationError, match="expired") as ended:
            await calling(address, "wait", "1")
    assert ended.value.generation.state == pb.GENERATION_STATE_EXPIRED


async def test_a_list_goes_over_all_pages(door: Door, calling: Call) -> None:
    door.pages = [(["3", "2"], "next"), (["1"], "")]
    async with served(door) as address:
        found = await calling(address, "list", model="toy", page_size=2)
    assert [one.id for one in found] == ["3", "2", "1"]
    assert [(one.page_token, one.filter.model) for one in door.asked] == [
        ("", "toy"),
        ("next", "toy"),
    ]
