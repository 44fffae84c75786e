"""Many generations in one call: each answered by itself, stored together, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atelier.v1 import generation_pb2 as pb
from atelier.v1 import preset_pb2
from tests.support.door import Refusal, door, refusal, refusal_of
from tests.support.processes import Process, scheduler_process


@pytest.fixture
def scheduler(dsn: str, tmp_path: Path) -> Iterator[Process]:
    with scheduler_process(dsn, tmp_path, max_queued=1_200) as process:
        yield process


def request(**more: Any) -> pb.CreateGenerationRequest:
    image = pb.ImageSpec(**{"prompt": "a ring", **more.pop("image", {})})
    return pb.CreateGenerationRequest(**{"model": "toy", "image": image, **more})


def batch(*requests: pb.CreateGenerationRequest) -> pb.CreateGenerationsRequest:
    return pb.CreateGenerationsRequest(requests=requests)


def told(answer: pb.CreateGenerationsAnswer) -> Refusal:
    assert answer.WhichOneof("answer") == "error", answer
    return refusal_of(answer.error)


async def test_each_is_answered_by_itself_and_in_order(scheduler: Process) -> None:
    async with door(scheduler.address) as caller:
        create = caller.generations.CreateGenerations
        preset = preset_pb2.Preset(model="toy", name="ink", image=pb.ImageSpec(steps=9))
        await caller.presets.CreatePreset(preset_pb2.CreatePresetRequest(preset=preset))
        first = (await caller.generations.CreateGeneration(request(request_id="a"))).generation
        wanted = batch(
            request(request_id="a"),
            request(image={"steps": 0}, model="toy"),
            request(request_id="b", preset="ink"),
            request(request_id="b", preset="ink"),
            request(request_id="b"),
            request(model="toi"),
            request(labels={"n": "6"}),
        )
        answers = (await create(wanted)).answers
        assert len(answers) == 7
        assert answers[0].generation.id == first.id
        assert told(answers[1]).fields.keys() == {"image.steps"}
        assert answers[2].generation.image.steps == 9
        assert answers[3].generation.id == answers[2].generation.id
        assert told(answers[4]).reason == "REQUEST_ID_REUSED"
        assert "did you mean toy?" in told(answers[5]).fields["model"]
        assert answers[6].generation.labels == {"n": "6"}
        again = (await create(wanted)).answers
        assert [a.generation.id for a in again][:4] == [a.generation.id for a in answers][:4]
        assert again[6].generation.id != answers[6].generation.id  # it had no request_id


async def test_a_new_one_is_told_as_it_stands(scheduler: Process) -> None:
    """The scheduler tells of it in brief, since the gateway has all the rest."""
    async with door(scheduler.address) as caller:
        output = pb.ImageOutput(format=pb.IMAGE_FORMAT_WEBP, quality=80)
        wanted = request(labels={"n": "1"}, image={"output": output, "guidance": 2.1}, priority=3)
        answers = (await caller.generations.CreateGenerations(batch(wanted, wanted))).answers
        told = [answer.generation for answer in answers]
        told.append((await caller.generations.CreateGeneration(wanted)).generation)
        for place, one in enumerate(told):
            get = pb.GetGenerationRequest(id=one.id)
            stands = (await caller.generations.GetGeneration(get)).generation
            assert stands.progress.queue_position == place
            assert one.progress.queue_position == place
            assert one == stands


async def test_a_thousand_large_ones_fit_any_client_and_the_scheduler(scheduler: Process) -> None:
    async with door(scheduler.address, call_timeout_seconds=30) as caller:
        create = caller.generations.CreateGenerations
        text = "é" * 4_000
        large = [request(image={"prompt": text, "seed": n}) for n in range(1_000)]
        answers = (await create(batch(*large))).answers
        ids = [answer.generation.id for answer in answers]
        assert len(set(ids)) == 1_000 and ids == sorted(ids)
        assert not answers[0].generation.HasField("image")
        read = await caller.generations.GetGeneration(pb.GetGenerationRequest(id=ids[-1]))
        assert (read.generation.image.prompt, read.generation.image.seed) == (text, 999)
        wrong = [request(image={"steps": 0, "width": 1}, labels={"x" * 99: ""})] * 1_000
        answers = (await create(batch(*wrong))).answers
        assert {told(answer).code for answer in answers} == {"INVALID_ARGUMENT"}


async def test_what_has_no_room_in_the_queue_is_told_so_by_itself(scheduler: Process) -> None:
    async with door(scheduler.address, call_timeout_seconds=30) as caller:
        create = caller.generations.CreateGenerations
        made = await asyncio.gather(*(create(batch(*[request()] * 700)) for _ in range(2)))
        answers = [answer for one in made for answer in one.answers]
        refused = [told(a) for a in answers if a.WhichOneof("answer") == "error"]
        assert refused and {(r.reason, r.retry) for r in refused} == {("QUEUE_FULL", True)}
        assert len(answers) - len(refused) == 1_200


async def test_none_and_too_many_are_refused(scheduler: Process) -> None:
    async with door(scheduler.address) as caller:
        for number in (0, 1_001):
            wrong = await refusal(
                caller.generations.CreateGenerations, batch(*[request()] * number)
            )
            assert wrong.fields.keys() == {"requests"}


async def test_a_scheduler_that_is_away_is_told_of_each() -> None:
    async with door("127.0.0.1:9", call_timeout_seconds=0.5) as caller:
        wanted = batch(request(), request(image={"steps": 0}))
        answers = (await caller.generations.CreateGenerations(wanted)).answers
        assert [told(answer).code for answer in answers] == ["UNAVAILABLE", "INVALID_ARGUMENT"]
        assert told(answers[0]).retry
