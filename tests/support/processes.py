"""Our own processes, started as `up` starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.cards import CARD
from tests.support.ports import free_address


def scheduler_process(
    dsn: str,
    folder: Path,
    *,
    models: tuple[str, ...] = ("toy",),
    log: str = "scheduler.log",
    **settings: object,
) -> Process:
    """A scheduler over that database that serves toy models of these names; not started yet."""
    for model in models:
        (folder / f"{model}.toml").write_text(CARD.replace('name = "toy"', f'name = "{model}"'))
    address = free_address()
    return Process(
        "scheduler",
        address,
        folder / log,
        scheduler_listen=address,
        postgres_dsn=dsn,
        model_repository=folder,
        **settings,
    )


class Process:
    """`python -m MODULE` with settings; its standard error goes to a file."""

    def __init__(self, module: str, address: str, log: Path, **settings: object) -> None:
        self.module, self.address, self.log = module, address, log
        self._env = {f"ATELIER_{name.upper()}": str(value) for name, value in settings.items()}
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: str | None = None  # whose code it runs

    def by_code_in(self, tree: str) -> Self:
        """Of another version."""
        self._env["PYTHONPATH"] = self._folder = tree
        return self

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def launch(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env={**os.environ, **self._env},
                cwd=self._folder,
                stderr=log,
            )

    def start(self) -> None:
        """Start it, and wait until it says SERVING."""
        self.launch()
        assert self._child
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self._child.poll() is None, f"{self.module} ended:\n{self.log.read_text()}"
            with grpc.insecure_channel(self.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                try:
                    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                except grpc.RpcError:
                    time.sleep(0.05)
                    continue
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        raise TimeoutError(f"{self.module} does not serve:\n{self.log.read_text()}")

    @property
    def pid(self) -> int:
        assert self._child
        return self._child.pid

    def until_told(self, words: str) -> None:
        """Wait until its log has these words."""
        deadline = time.monotonic() + 30
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """SIGSTOP returns when all of it stands: until then some threads still answer."""
        assert self._child
        self._child.send_signal(number)
        if number == signal.SIGSTOP:
            until_stopped(self._child.pid)

    def wait(self, seconds: float) -> int:
        """Its exit status."""
        assert self._child
        return self._child.wait(timeout=seconds)

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        assert self._child
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        """SIGTERM; its exit status must be 0."""
        if self._child and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            assert self._child.wait(timeout=15) == 0, self.log.read_text()


def until_stopped(pid: int) -> None:
    """Wait until each of its threads stands: a signal takes its time to all of them."""
    threads = Path(f"/proc/{pid}/task")
    while any(_state(thread) != "T" for thread in threads.iterdir()):
        time.sleep(0.001)


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]
