"""What the kernel knows of a process. A pid alone names nobody: pids are used again, so a process
is a pid and the time it started at (in the kernel's ticks since boot)."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_STATE, _START_TICKS = 0, 19  # fields of /proc/PID/stat after the command's closing bracket


def _stat(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def start_ticks(pid: int) -> int | None:
    """When `pid` started; None where there is no such process (a zombie is none), or no /proc."""
    fields = _stat(pid)
    return int(fields[_START_TICKS]) if fields and fields[_STATE] != "Z" else None


def is_alive(pid: int, started: int | None) -> bool:
    """Whether the process that had `pid` and started then still lives."""
    return started is not None and start_ticks(pid) == started


def is_stopped(pid: int) -> bool:
    """Whether a signal (SIGSTOP, Ctrl-Z) or a debugger holds it."""
    return _stat(pid)[:1] in (["T"], ["t"])


def family(pid: int) -> list[int]:
    """A process and all its descendants, parents first."""
    return [pid, *(one for child in _children(pid) for one in family(child))]


def stopped(pid: int) -> list[int]:
    """The pids that are stopped, of a process and all its descendants."""
    return [one for one in family(pid) if is_stopped(one)]


def resident_bytes(pid: int) -> int | None:
    """Memory of a process and of all its descendants (pages that they share count for each)."""
    own = _resident(pid)
    if own is None:
        return None
    return own + sum(_resident(one) or 0 for one in family(pid)[1:])


def _resident(pid: int) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(c) for t in tasks for c in (t / "children").read_text().split()]
    return []


def end(pid: int, started: int | None, *, grace_seconds: float = 5.0) -> bool:
    """End a process that was left over, asking first. False where it is not the one meant."""
    if not is_alive(pid, started):
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
        deadline = time.monotonic() + grace_seconds
        while is_alive(pid, started) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not is_alive(pid, started):
            break
    return True


def end_group(leader: int) -> None:
    """Kill what is left of the group that `leader` led, such as workers of a part that crashed."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
