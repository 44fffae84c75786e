"""One log file a part: appended to, with a banner at each start, turned over when it is large.

A part holds its log open, and most are not ours to tell that it moved. So a log that is turned over
is copied, then emptied: as every part appends, it goes on at the beginning. What is written between
the two is lost, some milliseconds' worth.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import IO

LARGE_BYTES = 10 * 2**20


def open_log(path: Path, banner: str, now: datetime) -> IO[bytes]:
    """Open a part's log for its process to write to."""
    turn_over(path)
    log = path.open("ab")
    log.write(f"\n==== {now.isoformat(timespec='seconds')} {banner} ====\n".encode())
    log.flush()
    return log


def turn_over(path: Path) -> None:
    """Empty a log that is large, and keep what it held beside it."""
    if path.exists() and path.stat().st_size > LARGE_BYTES:
        shutil.copyfile(path, path.with_suffix(".log.1"))
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
