"""`atelier ps` and `atelier down`: who runs, and ending it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atelier.cli import fleet_words as words
from atelier.cli.fleet import look
from atelier.cli.problems import FAILED, ProblemError
from atelier.cli.where import Gateway, of_stack
from atelier.embedded import processes
from atelier.embedded.state import StackRecord, StateDir

CALL_SECONDS = 3.0
DOWN_SECONDS = 60.0


def ps(state_dir: Path, console: Console) -> int:
    """Print every part as the kernel sees it, and the fleet as the scheduler sees it."""
    state = StateDir(state_dir)
    record = state.read()
    if record is None:
        console.print(f"nothing ever ran in {state_dir}")
        return 0
    if not record.is_alive():
        console.print(f"nothing runs in {state_dir}; this ran there last:")
    console.print(_parts(record))
    if record.is_alive():
        _print_fleet(of_stack(state, record), console)
    return 0


def down(state_dir: Path, console: Console) -> int:
    """Ask the `up` of this folder to end, and wait until it has."""
    record = StateDir(state_dir).read()
    if record is None or not record.is_alive():
        left = [p for p in record.parts if p.is_alive()] if record else []
        for part in left:
            if part.pid is not None and processes.end(part.pid, part.started):
                console.print(f"ended {part.name}, left over from an earlier run")
        if not left:
            console.print(f"nothing runs in {state_dir}")
        return 0
    with suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS
    with console.status("stopping every part"):
        while record.is_alive():
            if time.monotonic() > deadline:
                console.print(f"`atelier up` (pid {record.pid}) is still there: its logs tell why")
                return FAILED
            time.sleep(0.1)
    console.print("every part has stopped")
    return 0


def _parts(record: StackRecord) -> Table:
    table = Table("part", "state", "pid", "address", "memory", "restarts", box=None)
    table.add_column("log", overflow="fold")  # whole, so that it can be copied
    for part in record.parts:
        alive = part.is_alive() and part.pid is not None
        table.add_row(
            part.name,
            part.state if alive or part.state in ("stopped", "failed") else "[red]gone[/]",
            str(part.pid) if alive else "-",
            part.address or "-",
            words.mebibytes(processes.resident_bytes(part.pid) if alive and part.pid else None),
            str(part.restarts),
            os.path.relpath(part.log),
        )
    return table


def _print_fleet(gateway: Gateway, console: Console) -> None:
    try:
        fleet = asyncio.run(look(gateway, CALL_SECONDS))
    except ProblemError as error:
        console.print(f"the fleet is not known: {error}", highlight=False, markup=False)
        return
    table = Table("device", "state", "memory held", "of", "models", "runs", "hardware", box=None)
    for device in fleet.devices:
        table.add_row(
            device.id,
            escape(words.state(device)),
            words.mebibytes(device.reserved_bytes),
            words.mebibytes(device.capacity_bytes),
            escape(", ".join(words.models(device)) or "-"),
            str(len(device.running)),
            device.hardware,
        )
    console.print()
    console.print(table)
    for queue in fleet.queues:
        console.print(words.queue_line(queue), highlight=False, markup=False)
