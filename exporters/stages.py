"""Stages of an export whose outcome is kept, so that a rerun goes on where the last one ended.

Each stage writes into a folder named by the hash of everything that decides what it writes. The
folder gets its name only when the stage is through; half of one never counts. All lie beside the
repository, on its disk, so that publishing is a rename, and are removed once the model is there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporters.errors import ExportError
from exporters.memory import give_back

RESULT = "result.json"
Making = Callable[[Path], Mapping[str, Any]]


class Stages:
    """The kept stages of one model's export."""

    def __init__(self, root: Path) -> None:
        """`root`: the model's own folder; made when the first stage ends."""
        self.root = root

    def run(self, name: str, inputs: Mapping[str, Any], make: Making) -> tuple[Path, Any, bool]:
        """Make a stage, or find it made.

        Args:
            inputs: everything that decides the outcome; JSON.
            make: writes into the folder given and returns figures, also JSON.

        Returns:
            the folder, the figures, and whether it was found made.

        Raises:
            ExportError: the disk is full; names the file or folder.
        """
        text = json.dumps(inputs, sort_keys=True, default=str)
        done = self.root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if (done / RESULT).is_file():
            return done, json.loads((done / RESULT).read_text()), True
        partial = done.with_name(f".{done.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            result = dict(make(partial))
            (partial / RESULT).write_text(json.dumps(result))
        except BaseException as error:
            told = full_disk(error, _written_last(partial) or self.root) if is_full(error) else ""
            shutil.rmtree(partial, ignore_errors=True)
            if told:
                raise ExportError(told) from error
            raise
        finally:
            give_back()
        shutil.rmtree(done, ignore_errors=True)
        partial.rename(done)
        return done, result, False

    def clear(self) -> None:
        """Forget everything: the model is published."""
        shutil.rmtree(self.root, ignore_errors=True)


def is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a disk without room."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(cause):  # as libraries in C++ put it
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _written_last(folder: Path) -> Path | None:
    """The file that was being written, which neither a library's error nor Python's own may say."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return max(files, key=lambda path: path.lstat().st_mtime_ns, default=None)


def full_disk(error: BaseException, place: Path) -> str:
    """The message: which file, how much is free, and that a rerun goes on.

    Args:
        place: the file that was being written or a folder of its disk, where the error names none.
    """
    name = getattr(error, "filename", None) or place
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    return (
        f"{name}: the disk is full ({free / 1e6:.0f} MB free); nothing was published. Make room and"
        " run the same command again: what is done is kept"
    )
