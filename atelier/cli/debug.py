"""`atelier debug PART|PID`: what a running process of ours does just now."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from rich.console import Console

from atelier.cli.problems import ProblemError
from atelier.debug import MOST_SECONDS, SIGNAL, address_of, peer_of
from atelier.embedded.state import PartRecord, StateDir

MOST_MEMORY_SECONDS = int(MOST_SECONDS)
PATIENCE_SECONDS = 10.0  # beside the seconds of watching
SIGNALLED_SECONDS = 1.0
LAST_CHARACTERS = 20_000


async def debug(state_dir: Path, name: str, console: Console, memory_seconds: float | None) -> None:
    """Print its stacks and tasks; or what it allocates within so many seconds.

    Raises:
        ProblemError: there is no such process, it is not ours, or it does not let us.
    """
    pid, log = _found(state_dir, name)
    question = "stacks" if memory_seconds is None else f"memory {memory_seconds:.0f}"
    try:
        told = _ask(pid, question, PATIENCE_SECONDS + (memory_seconds or 0))
    except TimeoutError:
        told = _signalled(pid, log)
    console.print(told, markup=False, highlight=False, soft_wrap=True, end="")


def _found(state_dir: Path, name: str) -> tuple[int, Path | None]:
    """The process, and where it logs, if that is known."""
    if name.isdecimal():
        return int(name), None
    record = StateDir(state_dir).read()
    parts: dict[str, PartRecord] = {part.name: part for part in record.parts} if record else {}
    if not parts:
        raise ProblemError([f"nothing ever ran in {state_dir}", "try --state-dir, or a PID"])
    if name not in parts:
        known = ", ".join(parts)
        raise ProblemError([f"there is no part called {name}", f"say {known}, or a PID"])
    part = parts[name]
    if part.pid is None or not part.is_alive():
        raise ProblemError([f"{name} does not run just now", "`atelier ps` shows what does"])
    return part.pid, Path(part.log)


def _ask(pid: int, question: str, seconds: float) -> str:
    """Raises TimeoutError where it is there, and silent."""
    if not Path(f"/proc/{pid}").exists():
        raise ProblemError([f"there is no process {pid}"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(seconds)
        try:
            line.connect(address_of(pid))
        except ConnectionRefusedError:
            raise ProblemError(
                [
                    f"process {pid} cannot be asked: it is none of scheduler, gateway, agent and"
                    " webhooks, or of an earlier version",
                    f"py-spy dump --pid {pid} looks into any Python (docs/operations.md)",
                ]
            ) from None
        if peer_of(line)[0] != pid:
            raise ProblemError([f"who answers for process {pid} is another process"])
        try:
            line.sendall(question.encode())
            told = bytearray()
            while piece := line.recv(65_536):
                told += piece
        except (ConnectionResetError, BrokenPipeError):
            told = bytearray()
    if not told:
        raise ProblemError(
            [f"process {pid} did not answer", "only its own user and root are: try sudo"]
        )
    return told.decode(errors="replace")


def _signalled(pid: int, log: Path | None) -> str:
    """What faulthandler writes into its log: it needs nobody of the process."""
    if not _catches(pid):
        raise ProblemError([f"process {pid} does not answer, and would not outlive {SIGNAL.name}"])
    size = log.stat().st_size if log else 0
    try:
        os.kill(pid, SIGNAL)
    except PermissionError:
        raise ProblemError([f"process {pid} is not yours: try sudo"]) from None
    head = f"process {pid} does not answer: Python's lock is held, or it is stopped\n"
    if log is None:
        return f"{head}its stacks are where its standard error goes\n"
    time.sleep(SIGNALLED_SECONDS)
    with log.open("rb") as file:
        file.seek(size)
        return head + file.read(LAST_CHARACTERS).decode(errors="replace")


def _catches(pid: int) -> bool:
    """Whether the signal is not its end: the kernel's mask of those that are caught."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.Signals(SIGNAL).value - 1) & 1)
    return False
