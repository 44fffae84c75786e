"""Ends a device's Triton, for whoever keeps it to start it again.

The agent never starts a Triton: the embedded supervisor, a container's restart policy or systemd
does that. All that is needed is to know the process: its pid, in a file that its keeper writes
("PID", or "PID TICKS" with the start time in the kernel's ticks, which makes the pid a name).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from atelier.embedded import processes
from atelier.errors import ExecutionError

log = structlog.get_logger()

GRACE_SECONDS = 8.0  # from SIGTERM to SIGKILL: longer than Triton's own exit timeout


async def end_process(pid_file: Path | None) -> None:
    """End the process that the file names, asking first.

    Raises:
        ExecutionError: there is no such file, or no such process.
    """
    if pid_file is None:
        raise ExecutionError(
            "this device names no triton_pid_file, so its Triton cannot be started anew",
            retryable=False,
            reason="RECYCLE_UNSUPPORTED",
        )
    pid, started = _named_by(pid_file)
    log.info("ending triton", pid=pid)
    ended = await asyncio.to_thread(processes.end, pid, started, grace_seconds=GRACE_SECONDS)
    if not ended:
        raise _gone(f"{pid_file} names a process that has ended already")


def _named_by(pid_file: Path) -> tuple[int, int | None]:
    """The process, as pid and start time. Raises ExecutionError."""
    try:
        words = pid_file.read_text().split()
        pid = int(words[0])
        return pid, int(words[1]) if len(words) > 1 else processes.start_ticks(pid)
    except (OSError, ValueError, IndexError) as error:
        raise _gone(f"{pid_file} names no process: {error}") from error


def _gone(detail: str) -> ExecutionError:
    log.warning("triton was not ended", detail=detail)
    return ExecutionError(
        "its Triton's process is not there to be ended", retryable=True, reason="TRITON_GONE"
    )
