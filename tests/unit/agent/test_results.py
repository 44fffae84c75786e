"""Files that say how they were made, under keys that cannot leave their tenant's folder; and what
was uploaded for nothing is deleted."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent.encode import encode
from agent.parameters import parameters_of
from agent.results import Results, object_key
from agent.work import Attempt, AttemptCancelledError, Work
from atelier.errors import ExecutionError, UnavailableError
from atelier.output import Crop, ImageFormat, ImageOutput, Resize
from atelier.spec import ImageSpec, VideoSpec
from tests.support.cards import toy_card
from tests.unit.agent.fakes import DictStore

SPEC = ImageSpec("p", "", 64, 64, 1, 1.0, 0, 3, "ddim")
WORK = Work(Attempt("gen-1", 7, "cpu-0"), "local", "toy", SPEC)
IMAGES = np.zeros((3, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("tenant", "folder"),
    [("local", "local"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("Zoë", "Zo%C3%AB")],
)
def test_keys(tenant: str, folder: str) -> None:
    work = Work(WORK.attempt, tenant, "toy", SPEC)
    assert object_key(work, 3) == f"results/{folder}/gen-1/7/3.png"


class Failing(DictStore):
    """Stores the picture of index 1, and says that it did not."""

    def put(self, key: str, data: bytes, content_type: str) -> str:
        super().put(key, data, content_type)
        if key.endswith("/1.png"):
            raise UnavailableError("the object store is away")
        return key


@pytest.fixture
def store() -> DictStore:
    return Failing()


@pytest.fixture
def results(store: DictStore) -> Iterator[Results]:
    made = Results(store)
    yield made
    made.close()


async def swept(results: Results) -> None:
    """All that was ordered of the threads is done."""
    await asyncio.to_thread(results._threads.shutdown)


async def test_nothing_stays_of_an_upload_that_failed(store: DictStore, results: Results) -> None:
    store.objects["results/local/gen-1/6/0.png"] = b"another attempt's"
    with pytest.raises(ExecutionError):
        await results.publish(WORK, toy_card(), IMAGES, cancelled=lambda: False)
    await swept(results)
    assert list(store.objects) == ["results/local/gen-1/6/0.png"]


async def test_nothing_stays_of_an_upload_that_was_cancelled(
    store: DictStore, results: Results
) -> None:
    with pytest.raises(AttemptCancelledError):
        await results.publish(WORK, toy_card(), IMAGES, cancelled=lambda: len(store.objects) == 1)
    await swept(results)
    assert store.objects == {}


async def test_a_store_that_stays_away_is_left_alone(store: DictStore, results: Results) -> None:
    store.broken = True
    with pytest.raises(ExecutionError):
        await results.publish(WORK, toy_card(), IMAGES, cancelled=lambda: False)
    await swept(results)  # the delete fails (nothing is there), and nobody hears of it


def small(**output: Any) -> Work:
    """The work above, with small copies."""
    return replace(WORK, spec=replace(SPEC, output=ImageOutput(thumbnail_size=16, **output)))


async def test_nothing_stays_where_a_later_picture_has_no_encoding() -> None:
    store = DictStore()
    results = Results(store)
    images = [*IMAGES[:1], np.zeros((0, 0, 3), np.uint8)]  # no picture at all
    with pytest.raises(ValueError):
        await results.publish(WORK, toy_card(), images, cancelled=lambda: False)  # type: ignore[arg-type]
    await swept(results)
    assert store.objects == {}


async def test_a_small_copy_lies_beside_each_picture_and_is_swept_with_it(
    store: DictStore, results: Results
) -> None:
    [made] = await results.publish(
        small(format=ImageFormat.WEBP, quality=80), toy_card(), IMAGES[:1], cancelled=lambda: False
    )
    assert made.object_key == "results/local/gen-1/7/0.webp"
    assert (made.content_type, made.width, made.height) == ("image/webp", 64, 64)
    assert made.thumbnail_key == "results/local/gen-1/7/0.small.webp"
    assert Image.open(io.BytesIO(store.objects[made.thumbnail_key])).size == (16, 16)
    store.objects.clear()
    with pytest.raises(ExecutionError):
        await results.publish(small(), toy_card(), IMAGES, cancelled=lambda: False)
    await swept(results)
    assert store.objects == {}


async def test_the_result_and_its_small_copy_are_of_the_finished_picture(
    store: DictStore, results: Results
) -> None:
    work = small(crop=Crop(0, 0, 64, 32), resize=Resize(96, 0))
    [made] = await results.publish(work, toy_card(), IMAGES[:1], cancelled=lambda: False)
    assert (made.width, made.height) == (96, 48)
    assert Image.open(io.BytesIO(store.objects[made.object_key])).size == (96, 48)
    assert Image.open(io.BytesIO(store.objects[made.thumbnail_key])).size == (16, 8)


async def test_what_is_withheld_is_never_stored() -> None:
    store = DictStore()
    results = Results(store)
    made = await results.publish(small(), toy_card(), IMAGES, lambda: False, withheld={0, 2})
    assert sorted(store.objects) == [made[1].object_key, made[1].thumbnail_key]
    for index in (0, 2):
        one = made[index]
        assert (one.index, one.seed, one.withheld) == (index, index, True)
        assert not (one.object_key or one.thumbnail_key or one.sha256 or one.size_bytes)
    assert not made[1].withheld
    all_of_it = await results.publish(WORK, toy_card(), IMAGES, lambda: False, withheld=range(3))
    assert [one.withheld for one in all_of_it] == [True] * 3
    results.close()


async def test_a_withheld_picture_does_not_end_the_sweep(
    store: DictStore, results: Results
) -> None:
    """Index 1 fails to be stored; index 0 was never there to be deleted."""
    with pytest.raises(ExecutionError):
        await results.publish(small(), toy_card(), IMAGES, lambda: False, withheld={0})
    await swept(results)
    assert store.objects == {}


PRETTY = ImageSpec(
    prompt='a "red" circle, 円',
    negative_prompt="blue",
    width=16,
    height=8,
    steps=20,
    guidance=1.5,
    seed=2**32 - 1,
    count=2,
    sampler="ddim",
)
PIXELS = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)


def png(pixels: np.ndarray, index: int) -> bytes:  # type: ignore[type-arg]
    return encode(pixels, PRETTY.output, parameters_of(PRETTY, index, toy_card()))


def test_pixels_and_parameters_survive() -> None:
    image = Image.open(io.BytesIO(png(PIXELS, 1)))
    np.testing.assert_array_equal(np.asarray(image), PIXELS)
    assert image.text["Software"] == "Atelier"
    assert json.loads(image.text["parameters"]) == {
        "prompt": 'a "red" circle, 円',
        "prompt_sha256": hashlib.sha256('a "red" circle, 円'.encode()).hexdigest(),
        "negative_prompt": "blue",
        "seed": 0,  # seed + index, modulo 2^32
        "steps": 20,
        "guidance": 1.5,
        "sampler": "ddim",
        "size": "16x8",
        "model": "toy",
        "model_version": "sha256:0",
    }


def test_the_bytes_depend_on_nothing_else() -> None:
    first = png(PIXELS, 0)
    strided = np.repeat(PIXELS, 2, axis=1)[:, ::2]  # another memory layout
    assert png(strided, 0) == first
    assert png(PIXELS, 1) != first


def test_what_a_picture_was_made_from_is_told_without_its_tenant() -> None:
    digest = hashlib.sha256(b"a picture").hexdigest()
    output = ImageOutput(crop=Crop(0, 1, 8, 4), resize=Resize(0, 32))
    spec = replace(
        PRETTY, output=output, strength=0.5,
        init_image=f"inputs/acme/{digest}.png", mask_image="results/acme/gen-0/4/1.webp",
    )  # fmt: skip
    told = parameters_of(spec, 0, toy_card())
    assert told["init_image"] == f"sha256:{digest}"
    assert (told["mask_image"], told["strength"]) == ("results/gen-0/4/1.webp", 0.5)
    assert told["crop"] == {"x": 0, "y": 1, "width": 8, "height": 4}
    assert told["resize"] == {"height": 32} and told["size"] == "16x8"
    clip = VideoSpec("p", "", 64, 64, 1, 1.0, 0, 8, 8, "ddim", first_frame=spec.init_image)
    assert parameters_of(clip, 0, toy_card())["first_frame"] == f"sha256:{digest}"
    assert "acme" not in str(told)


async def test_how_long_each_encoding_took_is_told() -> None:
    told: list[float] = []
    results = Results(DictStore())
    await results.publish(WORK, toy_card(), IMAGES, lambda: False, encoded=told.append)
    results.close()
    assert len(told) == len(IMAGES) and all(seconds > 0 for seconds in told)
