"""A real S3 server for tests, as `atelier up` starts it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A port for each, which nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: probe.getsockname()[1] for name, probe in zip(names, probes, strict=True)}
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def s3_server(folder: Path, access_key: str, secret_key: str) -> Iterator[str]:
    """Where a running SeaweedFS serves S3 out of `folder`."""
    from atelier.embedded.part import NotReadyError
    from atelier.embedded.s3 import PORTS
    from atelier.embedded.s3 import ObjectStore as Part

    part = Part(folder, free_ports(PORTS), access_key, secret_key, secrets.token_hex())
    part.prepare()
    command = part.command()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command.argv, cwd=command.cwd, env=dict(command.environment),
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                part.probe()
                break
            except NotReadyError:
                assert time.monotonic() < give_up, (folder / "log").read_text()[-4000:]
                time.sleep(0.2)
        yield part.address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
