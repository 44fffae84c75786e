"""`make bench-steps`: what a step costs, and what batching by steps is worth.

Four things, each with the real step loop and a real Triton:

    cost      a step's time beside Triton's computing (step_cost.py)
    ways      one load brought to the device in six ways, pictures a second and latencies
              (step_traffic.py): on tiny-image, and on a model that sleeps as long as a step of
              Stable Diffusion 1.5 on an A100 is declared to take
    batches   how many rows the denoiser's calls had, by Triton's own statistics, in the same runs
    likeness  how much a picture depends on who shared its batches (step_likeness.py)

Ways take turns in one run; those among which the step loop's design was chosen twice, the second
time in the opposite order. Writes steps.json, steps.md and steps.svg: 5 minutes, or more where
tiny-image shares the machine's cores with others.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agent.text import PromptIds
from agent.triton import Triton
from atelier.catalog import Catalog, ModelCard
from atelier.config import model_repository
from atelier.embedded import triton as embedded
from benchmarks.bench_int8 import claim
from benchmarks.sleeping_repository import TOKENS, WIDTH, Sleeper, write_repository
from benchmarks.step_cost import SLEEPER, TEXT, costs
from benchmarks.step_cost import WAYS as CHANNELS
from benchmarks.step_likeness import likeness
from benchmarks.step_tables import draw, share_of_full, tables
from benchmarks.step_traffic import (
    BATCHER,
    COHORTS,
    LOCKSTEP,
    NONE,
    PADDED,
    REQUESTS,
    Bench,
    measure,
    merging,
)
from benchmarks.triton_process import free_port, started

RESULTS = Path("benchmarks/results")
KEY = "bench"
# A step of n rows takes 0.012 + 0.0065 * (n - 1) seconds: SD 1.5 at 512x512 on an A100.
SD15 = Sleeper("sd15", 0, 0, 0.1, step_a=0.0055, step_c=0.0065, batch_cap=16)
TINY = "tiny-image"
PROMPT = "a red circle on a blue background"
GOALS = {1: 1.0, 8: 2.5}  # ms of overhead, the median, by rows
IDEAL_GOAL = 0.85  # of what a device that is never idle would make, of full batches
# Pictures in lockstep over those in other ways: of the designs refused none wins clearly.
RATIO_GOALS = {COHORTS: 0.95, BATCHER: 0.95, REQUESTS: 1.0, PADDED: 1.0, NONE: 1.0}
FULL_GOAL = 0.5  # of the calls, with 8 rows and more, where 16 call
PSNR_GOAL = 50.0
# With one caller there is nothing to see of them; with 32, padding takes half a minute.
LEFT_OUT = {1: (COHORTS, BATCHER, PADDED), 32: (PADDED,)}
Row = dict[str, Any]


def sleeping(folder: Path) -> tuple[embedded.Triton, Path]:
    """A Triton of models that sleep, with embeddings as large as SD 1.5's."""
    repository = folder / "repository"
    write_repository(repository, [SLEEPER, SD15])
    text = ",".join(map(str, TEXT))
    for sleeper in (SLEEPER, SD15):
        config = repository / f"{sleeper.name}__denoiser" / "config.pbtxt"
        config.write_text(config.read_text().replace(f"[2,{TOKENS},{WIDTH}]", f"[{text}]"))
    return embedded.Triton(0, folder / "0", repository, free_port(), KEY, threads=1), repository


async def of_sleepers(part: embedded.Triton, repository: Path) -> tuple[list[Row], list[Row]]:
    """What a step costs, and the ways."""
    cards, spans = Catalog.read(repository).cards, part.folder / "spans.jsonl"
    bench = Bench(
        "sleeping SD 1.5", part.address, KEY, cards[SD15.name],
        merging(repository, cards[SD15.name]), "512x512", np.zeros(TEXT, np.float32),
        pictures={1: 6, 4: 16, 16: 32, 32: 56},
        ways=(LOCKSTEP, COHORTS, BATCHER, REQUESTS, PADDED, NONE),
        again=(LOCKSTEP, COHORTS, BATCHER),
        spans=spans,
    )  # fmt: skip
    await loaded(part, cards[SLEEPER.name], bench.card, bench.merging)
    cost = await costs(part.address, KEY, cards[SLEEPER.name], spans)
    return cost, await turns(bench)


async def of_tiny(part: embedded.Triton, repository: Path) -> tuple[list[Row], list[Row]]:
    """The ways, and the likeness."""
    card = Catalog.read(repository).cards[TINY]
    bench = Bench(
        TINY, part.address, KEY, card, merging(repository, card), "64x64",
        np.zeros((2, card.text.tokens, card.text.width), np.float32),
        pictures={1: 4, 4: 10, 16: 20, 32: 40},
        ways=(LOCKSTEP, COHORTS, BATCHER, REQUESTS, NONE),
        again=(LOCKSTEP, COHORTS, BATCHER),
        decodes=True,
        token_ids=PromptIds(repository, card).encode("", PROMPT),
    )  # fmt: skip
    await loaded(part, bench.card, bench.merging)
    return await turns(bench), await likeness(bench)


async def loaded(part: embedded.Triton, *cards: ModelCard) -> None:
    """All Triton models of the cards, each once."""
    client = Triton(part.address, KEY)
    first = {model: card for card in cards for model in card.components.triton_models}
    for model, card in first.items():
        await client.load(card, model)
    await client.close()


async def turns(bench: Bench) -> list[Row]:
    """Every way at every load, in turn, and some once more, backwards; means of both."""
    found: dict[tuple[int, str], list[Row]] = {}
    for callers in bench.pictures:
        for way in (*bench.ways, *reversed(bench.again)):
            if way not in LEFT_OUT.get(callers, ()):
                print(f"{bench.name}: {callers} callers, {way}", flush=True)
                found.setdefault((callers, way), []).append(await measure(bench, callers, way))
    return [mean(rows) for rows in found.values()]


def mean(rows: list[Row]) -> Row:
    """Numbers by their mean, but batches and pictures by their sum."""
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes.update(row["batches"])
    means = {
        name: round(statistics.mean(row[name] for row in rows), 4)
        for name, value in rows[0].items()
        if isinstance(value, float)
    }
    return rows[0] | means | {
        "pictures": sum(row["pictures"] for row in rows),
        "batches": {size: sizes[size] for size in sorted(sizes, key=int)},
    }  # fmt: skip


def claims(cost: list[Row], ways: list[Row], like: list[Row]) -> Iterator[Row]:
    for rows, goal in GOALS.items():
        [of] = [
            c for c in cost if (c["rows"], c["way"], c["sampler"]) == (rows, CHANNELS[1], "ddim")
        ]
        name = f"host overhead of a step at batch {rows}, median"
        yield claim(name, of["overhead"], "ms", "<=", goal)
    rate = {(row["device"], row["callers"], row["way"]): row["pictures_per_second"] for row in ways}
    for row in (row for row in ways if row["way"] == LOCKSTEP):
        callers, name = row["callers"], f"{row['device']}, {row['callers']} callers"
        if callers >= 16:
            full = share_of_full(row)
            yield claim(f"{name}: calls with 8 rows and more", full, "of all", ">=", FULL_GOAL)
        if "of_ideal" not in row or callers == 1:
            continue
        yield claim(f"{name}: of the ideal", row["of_ideal"], "", ">=", IDEAL_GOAL)
        for other, least in RATIO_GOALS.items():
            if there := rate.get((row["device"], callers, other)):
                ratio = row["pictures_per_second"] / there
                yield claim(f"{name}: pictures over {other}", ratio, "times", ">=", least)
    worst = min(row["psnr"] for row in like)
    yield claim("same picture in any batch, and resumed in any", worst, "dB", ">=", PSNR_GOAL)


def main() -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        part, repository = sleeping(folder / "sleeping")
        with started(part, folder / "sleeping.log"):
            cost, ways = asyncio.run(of_sleepers(part, repository))
        repository = folder / "tiny"
        shutil.copytree(model_repository(), repository)
        part = embedded.Triton(1, folder / "1", repository, free_port(), KEY, threads=1)
        with started(part, folder / "tiny.log"):
            more, like = asyncio.run(of_tiny(part, repository))
    ways += more
    told = list(claims(cost, ways, like))
    result = {
        "benchmark": "steps", "load_average": round(load, 1), "claims": told, "cost": cost,
        "ways": ways, "likeness": like,
    }  # fmt: skip
    (RESULTS / "steps.json").write_text(json.dumps(result, indent=2) + "\n")
    text = tables(cost, ways, like, told, load)
    (RESULTS / "steps.md").write_text(text)
    draw(ways, RESULTS / "steps.svg")
    print(text)
    for each in told:
        print(
            f"{'ok  ' if each['holds'] else 'MISS'} {each['name']}: {each['value']} {each['unit']}"
        )


if __name__ == "__main__":
    main()
