"""Models that only sleep, in a real Triton: they take what their profile says, one at a time."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from agent.buffers import StepRows
from agent.triton import Triton as Client
from atelier.catalog import Catalog, ModelCard
from benchmarks.device_time import Done
from benchmarks.sleeping_repository import Sleeper, write_repository
from benchmarks.sleeping_stack import GUIDANCE_STEP, spans
from scheduler.model import model_of
from tests.support.ports import free_address

pytest.importorskip("pytriton", reason="the embedded Triton is not installed")
from atelier.embedded.part import NotReadyError
from atelier.embedded.triton import Triton, missing_libpython

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing_libpython() is not None, reason="no libpython"),
]

SLEEPER = Sleeper("sleeper", 1_000, 10, 3.0, step_a=0.05, step_c=0.05, batch_cap=4)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Triton]]:
    """A stack's folder with one Triton in it, which runs, and the repository beside it."""
    folder = tmp_path_factory.mktemp("sleeping")
    write_repository(folder / "repository", [SLEEPER])
    port = int(free_address().rpartition(":")[2])
    part = Triton(0, folder / "triton" / "0", folder / "repository", port, "key", threads=1)
    part.prepare()
    command = part.command()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command.argv, cwd=command.cwd, env=dict(command.environment), stdout=log, stderr=log
        )
    try:
        give_up = time.monotonic() + part.start_seconds
        while True:
            try:
                part.probe()
                break
            except NotReadyError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < give_up, (folder / "log").read_text()
                time.sleep(0.1)
        yield folder, part
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def card(stack: tuple[Path, Triton]) -> ModelCard:
    return Catalog.read(stack[0] / "repository").cards["sleeper"]


@pytest.fixture
async def client(stack: tuple[Path, Triton], card: ModelCard) -> AsyncIterator[Client]:
    client = Client(stack[1].address, "key")
    for name in card.components.triton_models:
        await client.load(card, name)
    yield client
    await client.close()


def rows(*numbers: int) -> StepRows:
    n = len(numbers)
    latents = np.zeros((n, 4, 8, 8), np.float32)
    guidance = np.array([[1 + number * GUIDANCE_STEP] for number in numbers], np.float32)
    return StepRows(
        latents, latents, np.zeros((n, 1), np.float32), np.zeros((n, 2, 4, 4), np.float32),
        guidance, np.zeros((n, 6), np.float32),
    )  # fmt: skip


async def test_one_device_does_one_thing_at_a_time_as_its_profile_says(
    stack: tuple[Path, Triton], client: Client, card: ModelCard
) -> None:
    embeddings = await client.encode_text(card, np.zeros((2, 4), np.int64))
    assert embeddings.shape == (2, 4, 4)
    latents, denoised = await client.step(card, "64x64", rows(7, 4711))
    assert np.isfinite(latents).all()
    assert latents.shape == denoised.shape == (2, 4, 8, 8)
    again, images = await asyncio.gather(
        client.step(card, "64x64", rows(7)), client.decode(card, latents[1:])
    )
    assert images.shape == (1, 64, 64, 3)
    assert len(again[0]) == 1

    done = spans(stack[0], began=0.0)
    [load] = [d for d in done if d.kind == "load"]
    assert load.ended - load.began >= SLEEPER.load_seconds
    computed = [d for d in done if d.kind != "load"]
    first, *others = computed
    assert first == Done(
        "steps", "cpu-0", first.began, first.ended, pytest.approx(0.15), (7, 4711), 2
    )
    assert {(d.kind, d.requests) for d in others} == {("steps", (7,)), ("decode", (4711,))}
    assert all(d.ended - d.began >= d.nominal for d in computed)
    ordered = sorted(computed, key=lambda d: d.began)
    assert all(a.ended <= b.began for a, b in pairwise(ordered))


def test_the_scheduler_takes_it_for_what_it_is(card: ModelCard) -> None:
    model = model_of(card)
    shape = model.shapes["64x64"]
    assert (model.weights, model.load) == (SLEEPER.resident_bytes, SLEEPER.load_seconds)
    assert shape.step(1) == pytest.approx(SLEEPER.step_a + SLEEPER.step_c)
    assert shape.step(3) == pytest.approx(SLEEPER.step_a + 3 * SLEEPER.step_c)
    assert shape.decode == pytest.approx(SLEEPER.step_c)
