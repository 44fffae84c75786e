"""One Triton by itself, for as long as a benchmark needs it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atelier.embedded.part import NotReadyError
from atelier.embedded.triton import Triton


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(part: Triton, log: Path) -> Iterator[None]:
    """Run it, ready when this enters.

    Raises:
        RuntimeError: it ended, or is not ready in time; with its log.
    """
    part.prepare()
    command = part.command()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command.argv, cwd=command.cwd, env=dict(command.environment), stdout=file, stderr=file
        )
    try:
        give_up = time.monotonic() + part.start_seconds
        while True:
            try:
                part.probe()
                break
            except NotReadyError:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(log.read_text(errors="replace")[-4000:]) from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)
