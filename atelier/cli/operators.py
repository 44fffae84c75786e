"""The commands for operators and their options. What they do is in `fleet` and `watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from atelier.cli import fleet
from atelier.cli import top as top_
from atelier.cli.debug import MOST_MEMORY_SECONDS
from atelier.cli.debug import debug as debug_
from atelier.cli.options import AddressOption, StateDirOption, ask, do, wide
from atelier.cli.sweep import sweep as sweep_
from atelier.cli.timeline import timeline as timeline_
from atelier.cli.top_fleet import SORTS
from atelier.cli.up import DEFAULT_STATE_DIR
from atelier.cli.watch import watch as watch_
from atelier.cli.waterfall import trace as trace_

PANEL = "For operators"
MOST_DECISIONS = 1_000

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")]
DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Its id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]


def devices(
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show every device: memory, models, what runs at which step; and every queue."""
    ask(address, state_dir, lambda where: fleet.devices(where, wide(), as_json=as_json))


def drain(
    device: DeviceArgument,
    reason: Annotated[str, typer.Option(help="Why, for whoever asks later.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until it runs nothing any more.")] = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Give DEVICE no new work; it finishes what it runs, and stays drained until `undrain`."""
    ask(
        address,
        state_dir,
        lambda where: fleet.drain(where, device, reason, Console(), wait=wait),
    )


def undrain(
    device: DeviceArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Give a drained DEVICE work again."""
    ask(address, state_dir, lambda where: fleet.undrain(where, device, Console()))


def load(
    model: ModelArgument,
    device: Annotated[
        str, typer.Argument(metavar="DEVICE", help="Else it is enough that one has it.")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until it is there.")] = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Load MODEL on DEVICE, or where it displaces least, if it is on none yet."""
    ask(
        address,
        state_dir,
        lambda where: fleet.load(where, model, device, Console(), wait=wait),
    )


def unload(
    model: ModelArgument,
    device: DeviceArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Unload an idle MODEL from DEVICE."""
    ask(address, state_dir, lambda where: fleet.unload(where, model, device, Console()))


def pin(
    model: ModelArgument,
    device: DeviceArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Keep MODEL on DEVICE: load it there, and never unload it, until `unpin`."""
    ask(address, state_dir, lambda where: fleet.pin(where, model, device, Console()))


def unpin(
    model: ModelArgument,
    device: DeviceArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Leave a pinned MODEL on DEVICE to the scheduler again."""
    ask(address, state_dir, lambda where: fleet.unpin(where, model, device, Console()))


def watch(
    past: Annotated[
        int, typer.Option(min=0, max=MOST_DECISIONS, help="Tell so many earlier decisions first.")
    ] = 0,
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Follow the scheduler's decisions and the devices' states, a line each, until Ctrl-C."""
    ask(
        address,
        state_dir,
        lambda where: watch_(where, past, wide(), as_json=as_json),
        interrupted="",
    )


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one frame, and end.")] = False,
    sort: Annotated[str, typer.Option(help=f"{', '.join(SORTS)}.")] = "id",
    interval: Annotated[
        float, typer.Option(min=0.2, max=60, help="Seconds between two looks at the devices.")
    ] = 1.0,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Watch the fleet live: memory, models, batches, queues, decisions; with keys to act."""
    if sort not in SORTS:
        raise typer.BadParameter(f"--sort {sort}: say {', '.join(SORTS)}")
    if once:
        ask(address, state_dir, lambda where: top_.once(where, sort, wide()))
    else:
        ask(
            address,
            state_dir,
            lambda where: top_.top(where, sort, interval, Console()),
            interrupted="",
        )


def trace(
    generation: Annotated[str, typer.Argument(metavar="ID", help="A generation's id.")],
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show a generation's life: its waits, loads and phases as a waterfall, attempt by attempt."""
    ask(address, state_dir, lambda where: trace_(where, generation, wide()))


def timeline(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="A page .html, a picture .png, Perfetto .json."),
    ] = Path("timeline.html"),
    last: Annotated[
        float | None, typer.Option(min=0.1, help="Only the last so many seconds.")
    ] = None,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Draw what each device did over time: what ran, loads, idle time, preemptions, faults."""
    ask(address, state_dir, lambda where: timeline_(where, out, last, Console()))


def decisions(
    last: Annotated[
        int, typer.Option("--last", "-n", min=1, max=MOST_DECISIONS, help="How many.")
    ] = 20,
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show the latest decisions with their reasons, and the whole state on one line."""
    ask(
        address,
        state_dir,
        lambda where: fleet.decisions(where, last, wide(), as_json=as_json),
    )


def debug(
    part: Annotated[str, typer.Argument(metavar="PART|PID", help="As `atelier ps` calls it.")],
    memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_MEMORY_SECONDS,
            help="Instead: what it allocates within so many seconds, and what it holds.",
        ),
    ] = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show what a running PART does just now: every thread's stack, every asyncio task."""
    do(lambda: debug_(state_dir, part, wide(), memory), interrupted="")


def sweep(
    days: Annotated[int, typer.Option(min=1, help="Only files that are older.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what, delete nothing.")] = False,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Delete files in the object store that no generation names: what dying agents left."""
    do(lambda: sweep_(state_dir, days, wide(), dry_run=dry_run), interrupted="")


def add_to(app: typer.Typer) -> None:
    """Register them all, in a group of their own."""
    for command in (
        devices,
        drain,
        undrain,
        load,
        unload,
        pin,
        unpin,
        watch,
        top,
        trace,
        timeline,
        decisions,
        debug,
        sweep,
    ):
        app.command(rich_help_panel=PANEL)(command)
