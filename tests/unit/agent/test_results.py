"""Files that say how they were made, under keys that cannot leave their tenant's folder; and what
was uploaded for nothing is deleted."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from agent.results import Results, encode_png, object_key
from agent.work import Attempt, AttemptCancelledError, Work
from atelier.errors import ExecutionError, UnavailableError
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


def test_pixels_and_parameters_survive() -> None:
    image = Image.open(io.BytesIO(encode_png(PIXELS, PRETTY, 1, toy_card())))
    np.testing.assert_array_equal(np.asarray(image), PIXELS)
    assert image.text["Software"] == "Atelier"
    assert json.loads(image.text["parameters"]) == {
        "prompt": 'a "red" circle, 円',
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
    first = encode_png(PIXELS, PRETTY, 0, toy_card())
    strided = np.repeat(PIXELS, 2, axis=1)[:, ::2]  # another memory layout
    assert encode_png(strided, PRETTY, 0, toy_card()) == first
    assert encode_png(PIXELS, PRETTY, 1, toy_card()) != first
