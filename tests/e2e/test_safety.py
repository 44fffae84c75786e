"""A safety checker through real processes: an ONNX graph in a real Triton, named by two cards."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import urllib3
from minio import Minio
from PIL import Image
from rich.console import Console

from atelier.catalog import Catalog, Safety
from atelier.cli.generate import generate
from atelier.cli.problems import ProblemError
from atelier.cli.where import Gateway
from atelier.cli.wish import Wish
from atelier.config import model_repository
from atelier.embedded.s3 import BUCKET, ObjectStore
from atelier.embedded.stack import StackOptions, build
from atelier.embedded.state import StateDir
from atelier.embedded.supervisor import Hooks, Supervisor
from atelier.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2_grpc, model_pb2, model_pb2_grpc
from atelier.v1 import generation_pb2 as pb
from exporters.guard import guard
from tests.support.red_guard import GUARD, put_red_guard

pytestmark = pytest.mark.real
THRESHOLD = 0.03


def guarded_repository(folder: Path) -> Path:
    """The shipped models, both of which name the checker."""
    repository = Path(shutil.copytree(model_repository(), folder / "models"))
    checker = put_red_guard(repository)
    for name in Catalog.read(repository).cards:
        guard(repository, name, Safety(checker, threshold=THRESHOLD))
    return repository


class Guarded:
    """A stack whose models have a checker, and a caller's line to it."""

    def __init__(self, address: str, folder: Path, store: ObjectStore) -> None:
        self.address = address
        self._store = Minio(
            endpoint=store.address, access_key=store.access_key, secret_key=store.secret_key,
            secure=False, region="us-east-1",
        )  # fmt: skip
        self.folder = folder
        self._channel = grpc.aio.insecure_channel(address)
        self.generations = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self.models = model_pb2_grpc.ModelServiceStub(self._channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def stored(self, generation_id: str) -> list[str]:
        """Names of the files that lie in the object store for a generation, of any attempt."""

        def listed() -> list[str]:
            prefix = f"results/local/{generation_id}/"
            found = self._store.list_objects(bucket_name=BUCKET, prefix=prefix, recursive=True)
            return sorted(Path(str(one.object_name)).name for one in found)

        return await asyncio.to_thread(listed)

    async def made(self, request: pb.CreateGenerationRequest) -> pb.Generation:
        """The generation at its end, which is SUCCEEDED."""
        asked = pb.GenerateRequest(create=request, inline_results=True)
        async for answer in self.generations.Generate(asked, timeout=120):
            last = answer.generation
        assert last.state == pb.GENERATION_STATE_SUCCEEDED, last
        found: pb.Generation = last
        return found


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    state = StateDir(folder / "state")
    state.create()
    stack = build(state, StackOptions(repository=guarded_repository(folder)))
    supervisor = Supervisor(stack.parts, state.logs, Hooks())
    [store] = [part for part in stack.parts if isinstance(part, ObjectStore)]
    running = Guarded(stack.gateway, folder, store)
    try:
        await supervisor.start()
        yield running
    finally:
        await running.close()
        await supervisor.stop()


def picture(prompt: str, **image: object) -> pb.CreateGenerationRequest:
    spec = pb.ImageSpec(prompt=prompt, **image)  # type: ignore[arg-type]
    return pb.CreateGenerationRequest(model="tiny-image", image=spec)


def film(prompt: str) -> pb.CreateGenerationRequest:
    spec = pb.VideoSpec(prompt=prompt, seed=3, output=pb.VideoOutput(thumbnail_size=32))
    return pb.CreateGenerationRequest(model="tiny-video", video=spec)


def nothing_of(result: pb.Result) -> bool:
    """Whether there is no way to a picture in it."""
    ways = (result.object_key, result.url, result.thumbnail_key, result.thumbnail_url)
    return result.withheld and not any(ways) and not result.inline_data and not result.sha256


async def test_a_red_circle_is_withheld_and_a_blue_one_is_not(guarded: Guarded) -> None:
    red = await guarded.made(picture("a red circle on a white background", count=2, seed=1))
    assert len(red.results) == 2 and all(map(nothing_of, red.results))
    assert [result.seed for result in red.results] == [1, 2]
    again = await guarded.generations.GetGeneration(pb.GetGenerationRequest(id=red.id))
    assert all(map(nothing_of, again.generation.results))
    assert await guarded.stored(red.id) == []
    output = pb.ImageOutput(thumbnail_size=16)
    blue = await guarded.made(
        picture("a blue circle on a white background", count=2, seed=1, output=output)
    )
    assert not any(result.withheld for result in blue.results)
    assert await guarded.stored(blue.id) == ["0.png", "0.small.png", "1.png", "1.small.png"]
    for result in blue.results:
        assert Image.open(io.BytesIO(result.inline_data)).size == (64, 64)
        small = await asyncio.to_thread(urllib3.request, "GET", result.thumbnail_url)
        assert small.status == 200


async def test_of_several_pictures_only_those_above_the_threshold(guarded: Guarded) -> None:
    """Told nothing, the model takes one colour or another, by the seed."""
    done = await guarded.made(picture("a", count=8, seed=40))
    withheld = [result.withheld for result in done.results]
    assert any(withheld) and not all(withheld), withheld
    for result in done.results:
        assert nothing_of(result) if result.withheld else redness(result) <= THRESHOLD


def redness(result: pb.Result) -> float:
    pixels = np.asarray(Image.open(io.BytesIO(result.inline_data)), dtype=float)
    return float(np.maximum(pixels[..., 0] - pixels[..., 1:].max(-1), 0).mean() / 255)


async def test_a_film_is_withheld_as_a_whole_and_with_its_small_picture(guarded: Guarded) -> None:
    made = await guarded.made(film("a red circle moving left on a white background"))
    [red] = made.results
    assert nothing_of(red) and await guarded.stored(made.id) == []
    [blue] = (await guarded.made(film("a blue circle moving left on a white background"))).results
    assert not blue.withheld and blue.frames == 8 and blue.thumbnail_url


async def test_models_that_share_the_checker_say_so_and_hold_it_once(guarded: Guarded) -> None:
    models = (await guarded.models.ListModels(model_pb2.ListModelsRequest())).models
    assert {model.name for model in models if model.has_safety_checker} == {
        "tiny-image", "tiny-video",
    }  # fmt: skip
    assert not any(model.has_previews for model in models)  # they would show what is withheld
    devices = (await guarded.fleet.ListDevices(fleet_pb2.ListDevicesRequest())).devices
    assert set(devices[0].resident_models) == {"tiny-image", "tiny-video"}
    log = (guarded.folder / "state" / "logs" / "triton-0.log").read_text()
    assert log.count(f"successfully loaded '{GUARD}'") == 1


async def test_the_command_line_tells_it(guarded: Guarded, tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), width=100)
    wish = Wish("a red circle on a white background", model="tiny-image", seed=1)
    with pytest.raises(ProblemError, match="withheld by the safety checker of tiny-image"):
        await generate(Gateway(guarded.address), wish, tmp_path / "out", screen)
    assert not list((tmp_path / "out").iterdir())
