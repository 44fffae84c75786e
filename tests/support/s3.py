"""A real S3 server for tests, as `atelier up` starts it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tests.support.ports import free_ports
from tests.support.processes import until_stopped


class S3Server:
    """A SeaweedFS that serves S3 out of `folder`, and that can be killed, frozen and started."""

    def __init__(self, folder: Path, access_key: str, secret_key: str) -> None:
        from atelier.embedded.s3 import PORTS
        from atelier.embedded.s3 import ObjectStore as Part

        self._part = Part(folder, free_ports(PORTS), access_key, secret_key, secrets.token_hex())
        self._part.prepare()
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self._part.address

    def start(self) -> None:
        """Returns when an object was written and read."""
        from atelier.embedded.part import NotReadyError

        command = self._part.command()
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command.argv, cwd=command.cwd, env=dict(command.environment),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        give_up = time.monotonic() + 60
        while True:
            try:
                return self._part.probe()
            except NotReadyError:
                assert time.monotonic() < give_up, self._log.read_text()[-4000:]
                time.sleep(0.2)

    def freeze(self) -> None:
        """Returns when all of it stands."""
        self._signal(signal.SIGSTOP)
        assert self._process
        until_stopped(self._process.pid)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@contextmanager
def s3_server(folder: Path, access_key: str, secret_key: str) -> Iterator[str]:
    """Where a running SeaweedFS serves S3 out of `folder`."""
    with S3Server(folder, access_key, secret_key) as server:
        yield server.address
