"""One log file a part: appended to, with a banner at each start, turned over when it is large.

While its part runs, a log cannot just be moved: the part holds it open, and most are not ours to
tell. It is copied, then emptied, and as every part appends, it goes on at the beginning. What is
written between the two is lost, some milliseconds' worth.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import IO

LARGE_BYTES = 10 * 2**20


def open_log(path: Path, banner: str, now: datetime) -> IO[bytes]:
    """Open a part's log for its process to write to."""
    if _is_large(path):
        path.replace(_older(path))
    log = path.open("ab")
    log.write(f"\n==== {now.isoformat(timespec='seconds')} {banner} ====\n".encode())
    log.flush()
    return log


def turn_over(path: Path) -> None:
    """Empty the log of a part that runs, if it is large; what it held is kept beside it."""
    if _is_large(path):
        shutil.copyfile(path, _older(path))
        with path.open("r+b") as log:
            log.truncate()


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 200 * lines))
            text = log.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.splitlines()[-lines:])


def _is_large(path: Path) -> bool:
    return path.exists() and path.stat().st_size > LARGE_BYTES


def _older(path: Path) -> Path:
    return path.with_suffix(".log.1")
