"""Two schedulers: whichever leads is killed, frozen or told to end, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from atelier.v1 import generation_pb2 as pb
from tests.e2e.conftest import Stack, wait_until

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("failover") / "state", "--schedulers", "2")
    running.start()
    try:
        yield running
    finally:
        assert running.stop() == 0


def leader(stack: Stack) -> str:
    """Who took the lead last."""
    led: dict[str, str] = {}
    for name in ("scheduler", "scheduler-1"):
        for line in stack.log_of(name).splitlines():
            if '"leads"' in line or " leads " in line:
                led[line] = name
    return led[max(led)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_running_generations_go_on_under_the_other(pair: Stack, number: int) -> None:
    made = [
        pair.create("a green triangle on a white background", seed=i, steps=60) for i in range(4)
    ]

    def at_work() -> bool:
        requests = [pb.GetGenerationRequest(id=generation_id) for generation_id in made]
        answers = [pair.generations.GetGeneration(request, timeout=20) for request in requests]
        return all(answer.generation.progress.step > 0 for answer in answers)

    wait_until(at_work, 60)
    name = leader(pair)
    pid, restarts = pair.part(name)["pid"], pair.part(name)["restarts"]
    os.kill(pid, number)
    try:
        late = pair.create("a red circle on a blue background")
        done = [pair.wait(generation_id) for generation_id in [*made, late]]
        assert [g.state for g in done] == [pb.GENERATION_STATE_SUCCEEDED] * len(done), done
        assert {g.attempt for g in done} == {1}, "running generations are adopted, not run anew"
        # One that was killed and comes back at once need not wait for its own lease.
        assert leader(pair) != name or number == signal.SIGKILL
    finally:
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: pair.back(name, restarts + 1), 60, lambda: pair.log.read_text())
    if number == signal.SIGSTOP:
        assert "steps down" in pair.log_of(name)
