"""Conversations with the scheduler over a stream in memory: greeting, reports, breaking, return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import grpc
import pytest

from agent.link import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Link, LinkLostError
from agent.outbox import Outbox
from atelier.v1 import agent_pb2 as pb
from tests.unit.agent.conftest import Inside
from tests.unit.agent.fakes import FakeTriton

MakeRun = Callable[..., pb.ConnectResponse]


class MemoryStream:
    """The agent's side is `read` and `write`; the test's is `say`, `hear` and `end`."""

    def __init__(self) -> None:
        self._to_agent: asyncio.Queue[Any] = asyncio.Queue()
        self._to_test: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()

    async def read(self) -> Any:
        message = await self._to_agent.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def write(self, request: pb.ConnectRequest, /) -> None:
        self._to_test.put_nowait(request)

    def say(self, message: Any) -> None:
        self._to_agent.put_nowait(message)

    def welcome(self, epoch: int = 1, **more: Any) -> None:
        self.say(pb.ConnectResponse(welcome=pb.Welcome(epoch=epoch, report_seconds=1.0, **more)))

    def end(self) -> None:
        self.say(grpc.aio.EOF)

    async def hear(self, kind: str) -> Any:
        async with asyncio.timeout(5):
            while True:
                message = await self._to_test.get()
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)


class Pauses:
    """A sleep that ends when the test says so; short pauses of the link end by themselves."""

    def __init__(self) -> None:
        self.reconnects: list[float] = []
        self.report = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        if seconds == 1.0:  # between two reports
            self.report.clear()
            await self.report.wait()
        else:
            self.reconnects.append(seconds)
            await asyncio.sleep(0)


class Scheduler:
    """Gives the link one stream after the other."""

    def __init__(self, inside: Inside) -> None:
        self.streams: asyncio.Queue[MemoryStream] = asyncio.Queue()
        self.refusals = 0
        self.pauses = Pauses()
        self.link = Link(
            "node-1",
            {inside.device.id: inside.device},
            inside.commands,
            inside.outbox,
            connect=self._connect,
            rng=Random(1),
            sleep=self.pauses,
        )

    async def accept(self) -> MemoryStream:
        async with asyncio.timeout(5):
            return await self.streams.get()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[MemoryStream]:
        if self.refusals:
            self.refusals -= 1
            raise TimeoutError("nobody is there")
        stream = MemoryStream()
        self.streams.put_nowait(stream)
        yield stream


@pytest.fixture
async def scheduler(inside: Inside) -> AsyncIterator[Scheduler]:
    made = Scheduler(inside)
    task = asyncio.create_task(made.link.run())
    yield made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_hello_then_reports(scheduler: Scheduler) -> None:
    stream = await scheduler.accept()
    hello = await stream.hear("hello")
    assert (hello.node, hello.epoch, list(hello.attempts)) == ("node-1", 0, [])
    (device,) = hello.devices
    assert (device.id, device.hardware, device.capacity_bytes) == ("cpu-0", "cpu", 1000)
    assert list(device.resident_models) == ["toy"]
    stream.welcome()
    for _ in range(3):
        (sample,) = (await stream.hear("device_report")).samples
        assert (sample.device_id, sample.healthy, sample.reason) == ("cpu-0", True, "")
        assert list(sample.resident_models) == ["toy"]
        await asyncio.sleep(0)
        scheduler.pauses.report.set()


async def test_nothing_is_told_before_the_welcome(
    scheduler: Scheduler, inside: Inside, run_message: MakeRun
) -> None:
    inside.commands.obey(run_message())
    stream = await scheduler.accept()
    assert len((await stream.hear("hello")).attempts) == 1
    await inside.settle_down()
    assert stream._to_test.empty()
    stream.welcome()
    await stream.hear("succeeded")


async def test_work_goes_on_while_the_scheduler_is_away(
    scheduler: Scheduler, inside: Inside, run_message: MakeRun
) -> None:
    first = await scheduler.accept()
    first.welcome()
    run = run_message(steps=6)
    first.say(run)
    await first.hear("progress")
    first.end()

    second = await scheduler.accept()
    hello = await second.hear("hello")
    assert [a.generation_id for a in hello.attempts] == ["gen-1"]
    assert hello.epoch == 1
    await inside.settle_down()  # it ends while nobody listens
    assert len(inside.triton.batches) == 6
    second.welcome()
    assert (await second.hear("succeeded")).attempt == run.run.attempt
    second.say(Exception_())  # it breaks before it is settled

    third = await scheduler.accept()
    assert len((await third.hear("hello")).attempts) == 1
    third.welcome()
    await third.hear("succeeded")
    third.say(pb.ConnectResponse(settled=pb.AttemptSettled(attempt=run.run.attempt, accepted=True)))
    third.end()
    fourth = await scheduler.accept()
    assert len((await fourth.hear("hello")).attempts) == 0


def Exception_() -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone"
    )


async def test_a_deposed_leader_is_left(scheduler: Scheduler, inside: Inside) -> None:
    leader = await scheduler.accept()
    leader.welcome(epoch=5)
    await leader.hear("device_report")
    leader.end()
    deposed = await scheduler.accept()
    assert (await deposed.hear("hello")).epoch == 5
    deposed.welcome(epoch=4)
    leader = await scheduler.accept()
    leader.welcome(epoch=6)
    await leader.hear("device_report")
    assert inside.commands.epoch == 6


async def test_pauses_grow_and_begin_anew_after_a_welcome(
    scheduler: Scheduler, inside: Inside
) -> None:
    silent = await scheduler.accept()
    scheduler.refusals = 12
    silent.end()
    stream = await scheduler.accept()
    pauses = scheduler.pauses.reconnects
    assert len(pauses) == 13
    for number, pause in enumerate(pauses):
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**number)
        assert longest / 2 <= pause <= longest
    stream.welcome()
    await stream.hear("device_report")
    stream.end()
    await scheduler.accept()
    assert pauses[-1] <= FIRST_PAUSE_SECONDS


async def test_whoever_does_not_greet_is_left(inside: Inside) -> None:
    stranger = MemoryStream()
    stranger.say(pb.ConnectResponse(settled=pb.AttemptSettled()))
    with pytest.raises(LinkLostError):
        await Scheduler(inside).link.converse(stranger)


async def test_who_is_told_to_end_as_the_scheduler_goes_ends(inside: Inside) -> None:
    """All parts die at once when what started them is killed: both happen in one turn."""
    scheduler = Scheduler(inside)
    link = asyncio.create_task(scheduler.link.run())
    stream = await scheduler.accept()
    stream.welcome()
    await stream.hear("device_report")
    stream.end()
    await asyncio.sleep(0)  # the reader has the end now, and the group will fail
    link.cancel()
    await asyncio.wait([link], timeout=5)
    assert link.cancelled()


async def test_a_sick_triton_is_reported(scheduler: Scheduler, inside: Inside) -> None:
    inside.triton.alive = False
    stream = await scheduler.accept()
    stream.welcome()
    (sample,) = (await stream.hear("device_report")).samples
    assert (sample.healthy, sample.reason) == (False, "Triton says that it is not live")


async def test_the_outbox_keeps_order_and_the_latest() -> None:
    outbox = Outbox()

    def progress(step: int) -> pb.ConnectRequest:
        return pb.ConnectRequest(progress=pb.AttemptProgress(step=step))

    outbox.put("progress", progress(1))
    outbox.put("outcome", pb.ConnectRequest(succeeded=pb.AttemptSucceeded()))
    outbox.put("gone", progress(9))
    outbox.discard("gone")
    outbox.put("progress", progress(2))
    assert (await outbox.get()).progress.step == 2
    assert (await outbox.get()).HasField("succeeded")
    waiting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    outbox.put("progress", progress(3))
    assert (await waiting).progress.step == 3


def test_the_fake_is_a_port() -> None:
    """What the fake can, the real one can: the verbs are the same."""
    from agent.triton import Triton

    def verbs(of: type) -> set[str]:
        return {name for name, v in vars(of).items() if callable(v) and not name.startswith("_")}

    assert verbs(FakeTriton) == verbs(Triton)
