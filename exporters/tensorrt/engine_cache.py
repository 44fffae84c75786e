"""What was built once is not built again.

An engine is found by everything that decides it: the graph with its weights, the library and its
version, the devices built for, the profiles, the options, and our own code. The folder may be
deleted at any time, and does not grow without end: what was not used for longest goes (prune).

    ENGINES/KEY/model.plan, model.plan.json
    ENGINES/timing/KEY.cache        TensorRT's own measurements of kernels, by version and GPU
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from exporters.spec import PLAN_FILE
from exporters.tensorrt.graph import file_sha256
from exporters.tensorrt.library import Library
from exporters.tensorrt.options import Options
from exporters.tensorrt.profiles import Profile
from exporters.tensorrt.record import (
    Engine,
    EngineError,
    from_json,
    record_path,
    to_json,
)

MOST_BYTES = 32 * 2**30  # of all engines kept: a dozen models of Stable Diffusion 1.5's size


def engine_key(
    graph_sha256: str, library: Library, profiles: Sequence[Profile], options: Options
) -> str:
    """What an engine is found by."""
    facts = {
        "code": _code_sha256(),
        "graph": graph_sha256,
        "library": [library.name, library.version, *sorted(library.devices)],
        "profiles": [
            {name: asdict(bounds) for name, bounds in profile.items()} for profile in profiles
        ],
        "options": asdict(options),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code_sha256() -> str:
    """Of exporters/tensorrt: the same facts may build otherwise in another version of it."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


class EngineCache:
    """Engines in a folder, by their key. Safe to share between processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str, plan: Path) -> Engine | None:
        """Put the engine of this key to `plan`, with its record; None if there is none.

        One that is not what its record says is thrown away.
        """
        kept = self._folder / key / PLAN_FILE
        try:
            engine = from_json(record_path(kept).read_text())
            intact = file_sha256(kept) == engine.plan_sha256
        except (OSError, EngineError):
            intact = False
        if not intact:
            shutil.rmtree(kept.parent, ignore_errors=True)
            return None
        os.utime(kept.parent)  # prune goes by when an engine was last wanted
        place(kept, engine, plan)
        return engine

    def put(self, key: str, plan: Path, engine: Engine) -> None:
        """Keep a built engine."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".engine-", dir=self._folder) as name:
            whole = Path(name) / "whole"
            whole.mkdir()
            place(plan, engine, whole / PLAN_FILE)
            with contextlib.suppress(OSError):  # another process was first: its is as good
                whole.rename(self._folder / key)

    def prune(self, most_bytes: int = MOST_BYTES) -> int:
        """Remove the engines that were not wanted for longest, until the rest is small enough.

        Returns:
            bytes removed. The one that was wanted last stays, however large it is.
        """
        kept = [path.parent for path in self._folder.glob(f"*/{PLAN_FILE}")]
        kept.sort(key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
        total = removed = 0
        for nth, folder in enumerate(kept):
            size = sum(file.stat().st_size for file in folder.iterdir())
            total += size
            if nth and total > most_bytes:
                shutil.rmtree(folder, ignore_errors=True)
                removed += size
        return removed

    def timing_path(self, library: Library) -> Path:
        """Where a library's timing cache for these devices lies."""
        name = hashlib.sha256("\0".join((library.version, *library.devices)).encode()).hexdigest()
        return self._folder / "timing" / f"{name[:16]}.cache"


def place(source: Path, engine: Engine, plan: Path) -> None:
    """Put a plan and its record in place; on one disk nothing is copied.

    Between the two moves the old record does not fit the new plan, which read_back notices.
    """
    plan.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=plan.parent) as name:
        aside = Path(name) / plan.name
        try:
            os.link(source, aside)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, aside)
        aside.replace(plan)
        record = record_path(aside)
        record.write_text(to_json(engine))
        record.replace(record_path(plan))


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file aside and move it in when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=path.parent) as name:
        aside = Path(name) / path.name
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
