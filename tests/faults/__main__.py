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

from tests.faults.disks import own_mounts
from tests.faults.fault import Fault
from tests.faults.nemesis import ALL, FAILPOINTS, SHORT, schedule
from tests.faults.points import PAIRS
from tests.faults.report import write
from tests.faults.run import run

POINT_SECONDS = 3_600.0


def main(
    minutes: Annotated[float, typer.Option(help="Of faults; 0: each once, in two.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Of the order; drawn if not given.")] = None,
    many: Annotated[bool, typer.Option(help="Also kill each part with 200 in flight.")] = True,
    points: Annotated[bool, typer.Option(help="Each failpoint with each action, once.")] = False,
    only: Annotated[str, typer.Option(help="Faults whose name has this in it.")] = "",
    out: Annotated[Path | None, typer.Option(help="A folder for the report.")] = None,
) -> None:
    """Hurt the stack, and see that no promise breaks."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    kinds = [f for f in (FAILPOINTS if points else ALL if minutes else SHORT) if only in f.name]
    faults = _again_and_again(kinds, seed) if minutes else iter(schedule(Random(seed), kinds))
    disks = own_mounts()
    if not disks:
        print("no disks are filled: only root can make some to fill")
    found = asyncio.run(
        run(
            folder,
            seed,
            faults,
            seconds=POINT_SECONDS if points else minutes * 60 or 100,
            two_hundred=many and bool(minutes),
            disks=disks,
        )
    )
    if out:
        write(found, out)
    print(
        f"{len(found.recoveries)} faults, {found.acknowledged} acknowledged, {found.lost} lost,"
        f" {found.published_twice} published twice, {found.attempts} attempts"
    )
    for line in found.not_reached:
        print("not reached:", line)
    if points and (missed := PAIRS - found.pairs()):
        found.complaints.append(f"A21: failpoints not driven: {', '.join(sorted(missed))}")
    for line in found.complaints:
        print("BROKEN", line)
    if found.complaints:
        sys.exit(f"logs and history: {folder}")
    shutil.rmtree(folder)


def _again_and_again(faults: list[Fault], seed: int) -> Iterator[Fault]:
    for turn in itertools.count():
        yield from schedule(Random(f"{seed}/{turn}"), faults)


if __name__ == "__main__":
    typer.run(main)
