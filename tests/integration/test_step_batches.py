"""tiny-image in a real Triton: what shares a call, and what that does to a picture."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from agent.step_loop import StepLoop
from agent.text import PromptIds
from agent.triton import Triton
from atelier.catalog import Catalog
from atelier.config import model_repository
from benchmarks.step_likeness import EQUAL_DB, REPEATED, likeness, psnr
from benchmarks.step_traffic import Bench, Job, batches, begin
from tests.integration.test_agent import KEY, TritonProcess

pytestmark = pytest.mark.real

BOUND_DB = 50.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    repository = model_repository()
    card = Catalog.read(repository).cards["tiny-image"]
    process = TritonProcess(tmp_path_factory.mktemp("its triton"), repository)
    process.start()
    yield Bench(
        "tiny-image", process.address, KEY, card, card, "64x64",
        np.zeros((2, card.text.tokens, card.text.width), np.float32), pictures={}, ways=(),
        token_ids=PromptIds(repository, card).encode("", "a red circle on a blue background"),
    )  # fmt: skip
    process.kill()


async def loaded(bench: Bench) -> Triton:
    client = Triton(bench.address, bench.key)
    for model in bench.card.components.triton_models:
        await client.load(bench.card, model)
    return client


async def counted(client: Triton, bench: Bench, calls: int) -> dict[int, int]:
    """Calls of each size, once there are so many: Triton answers one before it counts it."""
    async with asyncio.timeout(10):
        while sum((told := await batches(client, bench.card)).values()) < calls:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return told


@pytest.mark.parametrize(
    "steps", [[5] * 8, [4, 6, 4, 5, 9, 4, 7, 4, 6, 5, 4, 8], [3] * 20], ids=["8", "12 mixed", "20"]
)
async def test_triton_counts_one_call_a_step_with_every_row_in_it(
    bench: Bench, steps: list[int]
) -> None:
    """Its statistics show batches of 8 where 8 and more generations are under way."""
    client = await loaded(bench)
    cap = bench.card.profile(bench.shape).batch_cap
    expected: Counter[int] = Counter()
    for step in range(max(steps)):
        rows = sum(each > step for each in steps)
        expected.update([cap] * (rows // cap) + ([rows % cap] if rows % cap else []))
    loop = StepLoop(client, time.perf_counter)
    members = [
        begin(bench.card, bench.shape, bench.text, Job(seed, count, "ddim"))
        for seed, count in enumerate(steps)
    ]
    before = await batches(client, bench.card)
    denoising = [asyncio.create_task(loop.denoise(member)) for member in members]
    await asyncio.sleep(0)  # all are in before the first step
    running = asyncio.create_task(loop.run())
    await asyncio.gather(*denoising)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    after = await counted(client, bench, sum(before.values()) + expected.total())
    await client.close()
    assert {
        n: after[n] - before.get(n, 0) for n in after if after[n] > before.get(n, 0)
    } == expected
    assert any(rows >= 8 for rows in expected)


async def test_a_picture_is_the_same_in_any_batch_and_after_any_resume(bench: Bench) -> None:
    """Bound: 50 dB against the same seed made alone; equal bytes in batches of equal size."""
    client = await loaded(bench)
    await client.close()
    found = {row["what"]: row for row in await likeness(bench, (1, 2, 5, REPEATED, 16))}
    assert len(found) == 8
    for what in ("1 rows, against 1", f"{REPEATED} rows, against {REPEATED}"):
        assert found[what]["max_abs_latents"] == 0, what
        assert found[what]["psnr"] == EQUAL_DB, what
    for what, row in found.items():
        assert row["psnr"] >= BOUND_DB, what


async def test_another_seed_is_another_picture(bench: Bench) -> None:
    """Else that bound would say nothing."""
    client = await loaded(bench)
    text = await client.encode_text(bench.card, bench.token_ids)
    loop = StepLoop(client, time.perf_counter)
    running = asyncio.create_task(loop.run())
    members = [begin(bench.card, bench.shape, text, Job(seed, 8, "ddim")) for seed in (1, 2)]
    await asyncio.gather(*map(loop.denoise, members))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    these, those = [await client.decode(bench.card, member.latents) for member in members]
    await client.close()
    assert psnr(these, those) < BOUND_DB
