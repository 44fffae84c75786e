"""`make record-alerts`: induce each alert's fault in a real house, and record what Prometheus would
see of it; into tests/alerts/recorded, for test_recorded.py. Some 15 minutes."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from tests.alerts.faults import FAULTS, Fault, House, house
from tests.alerts.series import Recording

RECORDED = Path(__file__).with_name("recorded")
CALLERS, PAUSE_SECONDS = 4, 0.4  # of the light load


def main(
    only: Annotated[list[str] | None, typer.Argument(help="Alerts; else all, and health.")] = None,
) -> None:
    """Record them."""
    for alert in only or FAULTS:
        alert = "" if alert == "health" else alert
        folder = Path(tempfile.mkdtemp(prefix="alert-"))
        recording = asyncio.run(_record(folder, FAULTS[alert]))
        told = {"seconds": recording.seconds, "series": recording.series()}
        path = RECORDED / f"{alert or 'health'}.json"
        path.write_text(json.dumps(told, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{path.name}: {recording.seconds} s, {len(told['series'])} series", flush=True)


async def _record(folder: Path, fault: Fault) -> Recording:
    recording = Recording()
    async with house(folder, fault) as running, AsyncExitStack() as stack:
        for model in ("first", "misfit"):
            await running.draw(model)  # the first load is none of the fault's
        acting = [asyncio.create_task(_callers(running))] if fault.load else []
        await fault.before(running, stack)
        acting.append(asyncio.create_task(fault.during(running, stack)))
        began = time.monotonic()
        for second in range(fault.seconds):
            await asyncio.sleep(began + second - time.monotonic())
            await asyncio.to_thread(recording.look, running.endpoints)
        for task in acting:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*acting, return_exceptions=True)
    return recording


async def _callers(running: House) -> None:
    async def caller() -> None:
        while True:
            await running.draw()
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


if __name__ == "__main__":
    typer.run(main)
