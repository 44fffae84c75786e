"""One log file a part: appended to, with a banner at each start, turned over when it is large."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import IO

LARGE_BYTES = 10 * 2**20


def open_log(path: Path, banner: str, now: datetime) -> IO[bytes]:
    """Open a part's log for its process to write to."""
    if path.exists() and path.stat().st_size > LARGE_BYTES:
        path.replace(path.with_suffix(".log.1"))
    log = path.open("ab")
    log.write(f"\n==== {now.isoformat(timespec='seconds')} {banner} ====\n".encode())
    log.flush()
    return log


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 200 * lines))
            text = log.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.splitlines()[-lines:])
