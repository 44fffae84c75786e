"""An urgent clip takes a batch of pictures off the device; it goes on later, to the same bytes."""

from __future__ import annotations

import pytest

from atelier.v1 import generation_pb2 as pb
from tests.e2e.conftest import Stack, create, wait_until

pytestmark = pytest.mark.real

PROMPT = "a red circle on a blue background"
IMAGE = {"steps": 100, "count": 8, "seed": 5}


def clip() -> pb.CreateGenerationRequest:
    return pb.CreateGenerationRequest(
        model="tiny-video",
        video=pb.VideoSpec(prompt="a red circle moving right", steps=4),
        priority=pb.PRIORITY_INTERACTIVE,
    )


def test_pictures_taken_off_their_device_end_as_if_they_had_not_been(stack: Stack) -> None:
    stack.wait(stack.generations.CreateGeneration(clip(), timeout=20).generation.id)  # it is loaded
    expected = [result.sha256 for result in stack.draw(PROMPT, **IMAGE)]
    request = create(PROMPT, **IMAGE)
    request.priority = pb.PRIORITY_BATCH
    pictures = stack.generations.CreateGeneration(request, timeout=20).generation.id

    def under_way() -> bool:
        answer = stack.generations.GetGeneration(pb.GetGenerationRequest(id=pictures), timeout=10)
        return bool(answer.generation.progress.step > 5)

    wait_until(under_way, 60)
    urgent = stack.wait(stack.generations.CreateGeneration(clip(), timeout=20).generation.id)
    done = stack.wait(pictures)
    assert urgent.state == done.state == pb.GENERATION_STATE_SUCCEEDED
    assert urgent.finish_time.ToDatetime() < done.finish_time.ToDatetime()
    assert done.attempt == 2, "it was taken off, once"
    assert [result.sha256 for result in done.results] == expected
