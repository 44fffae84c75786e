"""Parts are killed while ten generations run; all ten succeed."""

from __future__ import annotations

import pytest

from atelier.v1 import generation_pb2 as pb
from tests.e2e.conftest import Stack, wait_until

pytestmark = pytest.mark.real


def ten(stack: Stack) -> list[str]:
    """Ten generations, the first of them at work."""
    made = [
        stack.create("a green triangle on a white background", seed=i, steps=60) for i in range(10)
    ]

    def started() -> bool:
        request = pb.GetGenerationRequest(id=made[0])
        generation = stack.generations.GetGeneration(request, timeout=10).generation
        return bool(generation.progress.step > 0)

    wait_until(started, 60)
    return made


def all_succeed(stack: Stack, made: list[str]) -> list[int]:
    """Their attempts."""
    done = [stack.wait(generation_id) for generation_id in made]
    assert [g.state for g in done] == [pb.GENERATION_STATE_SUCCEEDED] * len(made), done
    return [g.attempt for g in done]


def killed(stack: Stack, name: str) -> None:
    restarts = stack.part(name)["restarts"]
    stack.kill(name)
    wait_until(lambda: stack.back(name, restarts + 1), 60, lambda: stack.log.read_text())


def test_gateway_then_agent(stack: Stack) -> None:
    made = ten(stack)
    killed(stack, "gateway")
    killed(stack, "agent")
    attempts = all_succeed(stack, made)
    assert max(attempts) >= 2, "the agent was killed too late to matter"


def test_scheduler(stack: Stack) -> None:
    made = ten(stack)
    killed(stack, "scheduler")
    assert set(all_succeed(stack, made)) == {1}, "running generations are adopted, not run anew"


def test_triton(stack: Stack) -> None:
    made = ten(stack)
    killed(stack, "triton-0")
    all_succeed(stack, made)


def test_postgres(stack: Stack) -> None:
    made = ten(stack)
    killed(stack, "postgres")
    all_succeed(stack, made)
