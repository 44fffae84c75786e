"""The whole stack, as `atelier up` starts it, once a session; every test talks to its gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.v1 import (
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2_grpc,
)
from tests.support.collector import Collector, collector
from tests.support.ports import free_address

MODEL = "tiny-image"
START_SECONDS, STOP_SECONDS = 120, 60
FINAL = {
    generation_pb2.GENERATION_STATE_SUCCEEDED,
    generation_pb2.GENERATION_STATE_FAILED,
    generation_pb2.GENERATION_STATE_CANCELLED,
    generation_pb2.GENERATION_STATE_EXPIRED,
}


class ShowsKey(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Every call carries the key."""

    def __init__(self, key: str) -> None:
        self._shown = ("authorization", f"Bearer {key}")

    def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
        return go_on(self._with_key(details), request)

    intercept_unary_stream = intercept_unary_unary

    def _with_key(self, details: Any) -> Any:
        return details._replace(metadata=[*(details.metadata or ()), self._shown])


class Stack:
    """A running `atelier up`, and clients of its gateway."""

    metrics: Sequence[str] = ()  # addresses of parts that tell theirs
    traces: Collector

    def __init__(self, state_dir: Path, *options: str) -> None:
        self.state_dir = state_dir
        self.log = state_dir.with_suffix(".up.log")
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "atelier.cli", "up", "--state-dir", str(self.state_dir)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options], stdout=log, stderr=log, cwd=self.state_dir.parent
            )
        wait_until(self.ready, START_SECONDS, lambda: self.log.read_text())
        self.address = self.record()["gateway"]
        self.key = (self.state_dir / "key").read_text().strip()
        self.channel = grpc.intercept_channel(
            grpc.insecure_channel(self.address), ShowsKey(self.key)
        )
        self.generations = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self.channel)

    def stop(self) -> int:
        assert self._process
        self.channel.close()
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(STOP_SECONDS)

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state_dir / "processes.json").read_text())
        return found

    def part(self, name: str) -> dict[str, Any]:
        return next(p for p in self.record()["parts"] if p["name"] == name)

    def ready(self) -> bool:
        assert self._process
        assert self._process.poll() is None, f"`up` ended:\n{self.log.read_text()}"
        try:
            return all(part["state"] == "ready" for part in self.record()["parts"])
        except FileNotFoundError:
            return False

    def kill(self, name: str) -> None:
        """SIGKILL a part; `up` starts it again."""
        os.kill(self.part(name)["pid"], signal.SIGKILL)

    def back(self, name: str, restarts: int) -> bool:
        part = self.part(name)
        return bool(part["restarts"] >= restarts and part["state"] == "ready")

    def log_of(self, name: str) -> str:
        return Path(self.part(name)["log"]).read_text()

    def create(self, prompt: str, **image: Any) -> str:
        """Ask for a generation; its id."""
        answer = self.generations.CreateGeneration(create(prompt, **image), timeout=20)
        return str(answer.generation.id)

    def wait(self, generation_id: str, seconds: float = 120) -> generation_pb2.Generation:
        """The generation in its final state, by polling: that outlives a killed gateway."""
        found: list[generation_pb2.Generation] = []

        def ended() -> bool:
            request = generation_pb2.GetGenerationRequest(id=generation_id, inline_results=True)
            try:
                answer = self.generations.GetGeneration(request, timeout=20, wait_for_ready=True)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                return False
            found[:] = [answer.generation]
            return answer.generation.state in FINAL

        wait_until(ended, seconds, lambda: str(found))
        return found[0]

    def draw(self, prompt: str, **image: Any) -> list[generation_pb2.Result]:
        """Generate by the one-call stream; the results with their bytes."""
        request = generation_pb2.GenerateRequest(
            create=create(prompt, **image), inline_results=True
        )
        *_, last = self.generations.Generate(request, timeout=120)
        assert last.generation.state == generation_pb2.GENERATION_STATE_SUCCEEDED, last
        return list(last.generation.results)


def create(prompt: str, **image: Any) -> generation_pb2.CreateGenerationRequest:
    spec = generation_pb2.ImageSpec(prompt=prompt, **image)
    return generation_pb2.CreateGenerationRequest(model=MODEL, image=spec)


def wait_until(
    true: Callable[[], bool], seconds: float, tell: Callable[[], str] = lambda: ""
) -> None:
    """Poll until `true`; fails with what `tell` has to say."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s\n{tell()}")
        time.sleep(0.05)


METRICS = [f"ATELIER_{part}METRICS_LISTEN" for part in ("", "GATEWAY_", "AGENT_", "WEBHOOKS_")]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """It tells all that it can tell of itself: metrics, and the traces of all generations."""
    running = Stack(tmp_path_factory.mktemp("e2e") / "the state")
    running.metrics = [free_address() for _ in METRICS]
    with collector() as running.traces, pytest.MonkeyPatch.context() as environment:
        for name, address in zip(METRICS, running.metrics, strict=True):
            environment.setenv(name, address)
        environment.setenv("ATELIER_OTLP_ENDPOINT", running.traces.address)
        environment.setenv("ATELIER_TRACE_RATIO", "1")
        running.start()
        environment.undo()
        yield running
        assert running.stop() == 0, running.log.read_text()
    left = [p for p in running.record()["parts"] if p["pid"] and Path(f"/proc/{p['pid']}").exists()]
    assert not left, left
