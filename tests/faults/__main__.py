"""`make test-faults` and `make test-faults-long`: every fault once, or again and again for so many
minutes. Prints its seed, which draws the same faults in the same order again (when they hit is the
machine's). Ends with status 1 where a promise was not kept. With --out writes a report."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from tests.faults.nemesis import ALL, COMMITS, FREEZES, KILLS, LINES, Fault, schedule
from tests.faults.report import write
from tests.faults.run import run

SHORT = [*KILLS, *FREEZES, *LINES, *COMMITS]


def main(
    minutes: Annotated[float, typer.Option(help="Of faults; 0: each once, in two.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Of the order; drawn if not given.")] = None,
    many: Annotated[bool, typer.Option(help="Also kill each part with 200 in flight.")] = True,
    out: Annotated[Path | None, typer.Option(help="A folder for the report.")] = None,
) -> None:
    """Hurt the stack, and see that no promise breaks."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    faults = _again_and_again(seed) if minutes else iter(schedule(Random(seed), SHORT))
    seconds = minutes * 60 or 100
    two_hundred = many and bool(minutes)
    found = asyncio.run(run(folder, seed, faults, seconds=seconds, two_hundred=two_hundred))
    if out:
        write(found, out)
    print(
        f"{len(found.recoveries)} faults, {found.acknowledged} acknowledged, {found.lost} lost,"
        f" {found.published_twice} published twice, {found.attempts} attempts"
    )
    for line in found.not_reached:
        print("not reached:", line)
    for line in found.complaints:
        print("BROKEN", line)
    if found.complaints:
        sys.exit(f"logs and history: {folder}")
    shutil.rmtree(folder)


def _again_and_again(seed: int) -> Iterator[Fault]:
    for turn in itertools.count():
        yield from schedule(Random(f"{seed}/{turn}"), ALL)


if __name__ == "__main__":
    typer.run(main)
