"""Lets an operator look into a running process of ours: `atelier debug PART|PID`.

A thread of its own answers on a socket in Linux's abstract namespace, so that there is an answer
also while the event loop is stuck. Where nobody can answer, because a library holds Python's lock,
SIGUSR1 still has faulthandler write every stack to the log.

Only whoever runs the process, or root, is answered (SO_PEERCRED). What is told are places in the
code, names of tasks, kinds and counts: never a variable's value, so neither a prompt nor a key.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from atelier.debug_looks import memory, stacks, tasks

log = structlog.get_logger()

T = TypeVar("T")

SIGNAL = signal.SIGUSR1
MOST_SECONDS = 60.0  # of watching what is allocated
_LINE_BYTES, _LINE_SECONDS = 64, 5.0
_PEER = struct.Struct("3i")  # pid, uid, gid: struct ucred of socket(7)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in a process that can be looked into."""
    with asyncio.Runner() as runner:
        _listen(runner.get_loop())
        return runner.run(main)


def address_of(pid: int) -> str:
    """Where a process answers."""
    return f"\0atelier-debug-{pid}"


def peer_of(line: socket.socket) -> tuple[int, int]:
    """The pid and the user id of who is at the other end, as the kernel knows them."""
    told = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(told)
    return pid, uid


def answer(loop: asyncio.AbstractEventLoop, question: str) -> str:
    """What is asked: `stacks`, or `memory SECONDS`."""
    match question.split():
        case ["stacks"]:
            return f"{stacks()}\n{tasks(loop)}"
        case ["memory", seconds] if seconds.isdecimal():
            return memory(min(float(seconds), MOST_SECONDS))
        case _:
            return "ask for `stacks`, or `memory SECONDS`\n"


def _listen(loop: asyncio.AbstractEventLoop) -> None:
    """Nothing of it may keep the process from its work."""
    try:
        faulthandler.register(SIGNAL, all_threads=True)  # to standard error
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(address_of(os.getpid()))
        server.listen(1)
    # No Linux; no standard error; another container's process of this pid, on one network.
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        log.warning("cannot be looked into", reason=str(error))
        return
    threading.Thread(target=_serve, args=(server, loop), name="debug", daemon=True).start()


def _serve(server: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
    """One after the other: who waits for what another asked for waits."""
    while True:
        line, _ = server.accept()
        with line, suppress(OSError):
            line.settimeout(_LINE_SECONDS)
            if peer_of(line)[1] not in (0, os.geteuid()):
                continue
            question = line.recv(_LINE_BYTES).decode(errors="replace")
            try:
                told = answer(loop, question)
            except Exception as error:
                log.exception("not told")
                told = f"this process failed to look at itself: {error!r}\n"
            line.sendall(told.encode())
