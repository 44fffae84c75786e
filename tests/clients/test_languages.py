"""docs/clients, really run: each creates, watches, cancels, and reads an error's details."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from atelier.errors import UnavailableError
from atelier.service import serving
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc
from tests.e2e.conftest import MODEL, Stack
from tests.support.ports import free_address

pytestmark = [pytest.mark.real, pytest.mark.slow]

BUILD = Path(__file__).parents[2] / "build" / "clients"  # scripts/install_clients.sh
DOCS = Path(__file__).parents[2] / "docs" / "clients"
COMMANDS = {
    "python": [sys.executable, str(DOCS / "python" / "client.py")],
    "node": ["node", str(BUILD / "node" / "client.mjs")],
    "go": [str(BUILD / "go" / "client")],
    "cpp": [str(BUILD / "cpp" / "client")],
}
PROMPT = "a red ring on a white background"
SECONDS = 120


@dataclass
class Ran:
    status: int
    lines: list[str]


class Program:
    """An example, as its user starts it."""

    def __init__(self, name: str, key: str) -> None:
        self._command = COMMANDS[name]
        more = {"PROTOS": str(BUILD / "protos"), "ATELIER_API_KEY": key}
        self._environment = {**os.environ, **more}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._command, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )

    def run(self, *words: str) -> Ran:
        process = self.start(*words)
        told, _ = process.communicate(timeout=SECONDS)
        return Ran(process.returncode, told.splitlines())


@pytest.fixture(params=COMMANDS)
def program(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Program]:
    name = request.param
    missing = BUILD / f"{name}.missing"
    if missing.exists():
        pytest.skip(f"{name}: {missing.read_text().strip()}")
    if not Path(COMMANDS[name][-1]).exists():
        pytest.skip(f"{name} is not built: make test-clients does that")
    yield Program(name, stack.key)


def test_it_draws(program: Program, stack: Stack) -> None:
    ran = program.run(stack.address, "draw", MODEL, PROMPT, "10")
    assert ran.status == 0, ran.lines
    generation = ran.lines[0].removeprefix("created ")
    assert "GENERATION_STATE_SUCCEEDED 10/10" in ran.lines
    [result] = stack.wait(generation).results
    assert any(line.startswith(f"result http://{result.url.split('/')[2]}/") for line in ran.lines)


def test_it_cancels(program: Program, stack: Stack) -> None:
    drawing = program.start(stack.address, "draw", MODEL, PROMPT, "100")
    assert drawing.stdout
    generation = drawing.stdout.readline().removeprefix("created ").strip()
    cancelled = program.run(stack.address, "cancel", generation)
    told, _ = drawing.communicate(timeout=SECONDS)
    assert cancelled == Ran(0, [f"cancelled {generation}"])
    assert told.splitlines()[-1].startswith("GENERATION_STATE_CANCELLED ")
    assert stack.wait(generation).state == pb.GENERATION_STATE_CANCELLED


def test_it_tells_which_fields_are_wrong(program: Program, stack: Stack) -> None:
    ran = program.run(stack.address, "draw", MODEL, PROMPT, "0", "7")
    assert ran.status == 1
    fields = {line.split()[1] for line in ran.lines if line.startswith("field ")}
    assert fields == {"image.steps", "image.width"}
    assert "reason INVALID_ARGUMENT" in ran.lines
    assert ran.lines[0].replace("_", "").lower().startswith("error invalidargument ")


class Away(generation_pb2_grpc.GenerationServiceServicer):
    """A gateway whose scheduler is away."""

    async def CreateGeneration(self, request: object, context: object) -> None:
        raise UnavailableError("the scheduler is away; try again", retry_after_seconds=1.5)


async def test_it_tells_when_to_come_again(program: Program) -> None:
    def register(server: grpc.aio.Server) -> None:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(Away(), server)

    address = free_address()
    async with serving(address, [], register):
        ran = await asyncio.to_thread(program.run, address, "draw", MODEL, PROMPT)
    assert ran.status == 1
    assert {"reason UNAVAILABLE", "retry after 1.5"} <= set(ran.lines), ran.lines
