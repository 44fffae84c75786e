"""Submits share messages; each is answered, or refused, by itself."""

from __future__ import annotations

import asyncio

import pytest

from atelier.errors import AtelierError, NotFoundError, ResourceExhaustedError, UnavailableError
from atelier.status import to_status
from atelier.v1 import generation_pb2
from atelier.v1 import scheduler_pb2 as pb
from gateway.submits import MOST, Submits

PATIENCE_SECONDS = 60.0


class Scheduler:
    """Answers a message when it is let to; ids that begin with "bad" are refused, those that begin
    with "old" stand for earlier ones."""

    def __init__(self) -> None:
        self.messages: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.broken: Exception | None = None

    async def __call__(self, request: pb.SubmitGenerationsRequest) -> pb.SubmitGenerationsResponse:
        self.messages.append([submit.generation.id for submit in request.submits])
        await self.open.wait()
        if self.broken:
            raise self.broken
        return pb.SubmitGenerationsResponse(answers=map(self._answer, request.submits))

    def _answer(self, submit: pb.SubmitGenerationRequest) -> pb.SubmitGenerationsAnswer:
        if submit.generation.id.startswith("bad"):
            error = ResourceExhaustedError("full", retry_after_seconds=5.0)
            return pb.SubmitGenerationsAnswer(error=to_status(error))
        if submit.generation.id.startswith("old"):
            return pb.SubmitGenerationsAnswer(generation=generation_pb2.Generation(id="earlier"))
        return pb.SubmitGenerationsAnswer(queued=generation_pb2.Progress(queue_position=7))


def submit(submits: Submits, id_: str, prompt: str = "") -> asyncio.Task[generation_pb2.Generation]:
    generation = generation_pb2.Generation(id=id_, image=generation_pb2.ImageSpec(prompt=prompt))
    request = pb.SubmitGenerationRequest(generation=generation)
    return asyncio.create_task(submits.submit(request))


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_alone_leaves_at_once() -> None:
    scheduler = Scheduler()
    assert (await submit(Submits(scheduler, PATIENCE_SECONDS), "a")).id == "a"
    assert scheduler.messages == [["a"]]


async def test_those_that_come_meanwhile_go_together() -> None:
    scheduler = Scheduler()
    scheduler.open.clear()
    submits = Submits(scheduler, PATIENCE_SECONDS)
    asked = []
    for name in "abcd":
        asked.append(submit(submits, name))
        await turns()
    assert scheduler.messages == [["a"]]
    scheduler.open.set()
    assert [one.id for one in await asyncio.gather(*asked)] == list("abcd")
    assert scheduler.messages == [["a"], ["b", "c", "d"]]


async def test_each_is_refused_by_itself() -> None:
    submits = Submits(Scheduler(), PATIENCE_SECONDS)
    good, bad = submit(submits, "good"), submit(submits, "bad")
    assert (await good).id == "good"
    with pytest.raises(AtelierError, match="full") as refused:
        await bad
    assert (refused.value.code, refused.value.retry_after_seconds) == ("RESOURCE_EXHAUSTED", 5.0)


async def test_one_that_is_new_stands_as_it_was_sent() -> None:
    submits = Submits(Scheduler(), PATIENCE_SECONDS)
    new, old = await asyncio.gather(submit(submits, "a", "a ring"), submit(submits, "old"))
    assert (new.id, new.image.prompt) == ("a", "a ring")
    assert new.state == generation_pb2.GENERATION_STATE_QUEUED
    assert new.progress.queue_position == 7
    assert old.id == "earlier"


async def test_nobody_waits_longer_than_a_call_may_take() -> None:
    scheduler = Scheduler()
    scheduler.open.clear()
    submits = Submits(scheduler, patience_seconds=0.01)
    asked = [submit(submits, "a")]
    await turns()
    asked.append(submit(submits, "b"))  # waits for the message before
    for one in asked:
        with pytest.raises(UnavailableError, match="scheduler is away"):
            await one
    scheduler.open.set()
    await turns()
    assert scheduler.messages == [["a"]]


async def test_a_message_that_is_lost_fails_all_in_it_and_no_other() -> None:
    scheduler = Scheduler()
    submits = Submits(scheduler, PATIENCE_SECONDS)
    scheduler.broken = NotFoundError("lost")
    asked = [submit(submits, name) for name in "ab"]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, NotFoundError) for one in found)
    scheduler.broken = None
    assert (await submit(submits, "c")).id == "c"


async def test_who_gives_up_before_it_left_has_not_submitted() -> None:
    scheduler = Scheduler()
    scheduler.open.clear()
    submits = Submits(scheduler, PATIENCE_SECONDS)
    asked = []
    for name in "abcd":
        asked.append(submit(submits, name))
        await turns()
    asked[2].cancel()
    await turns()
    scheduler.open.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[2], asyncio.CancelledError)
    assert scheduler.messages == [["a"], ["b", "d"]]


async def test_none_is_lost_or_sent_twice_however_many_and_large() -> None:
    scheduler = Scheduler()
    submits = Submits(scheduler, PATIENCE_SECONDS)
    names = [str(number) for number in range(3 * MOST)]
    asked = [submit(submits, name, "x" * 40_000) for name in names]  # 10 MB for MOST of them
    assert [one.id for one in await asyncio.gather(*asked)] == names
    assert [name for message in scheduler.messages for name in message] == names
    assert max(map(len, scheduler.messages)) < MOST
