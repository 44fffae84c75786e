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
from agent.results import Results, object_key, parameters_of
from agent.work import Attempt, AttemptCancelledError, Work
from atelier.errors import ExecutionError, UnavailableError
from atelier.output import ImageFormat, ImageOutput
from atelier.spec import ImageSpec
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

    def put(self, key: str, data: bytes, content_type: str) -> None:
        super().put(key, data, content_type)
        if key.endswith("/1.png"):
            raise UnavailableError("the object store is away")


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
