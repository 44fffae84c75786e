"""Who calls the door, or the echo beside it: a process of its own, the same for both.

`python -m benchmarks.door_caller JOB`: does a Job, told in JSON, and prints what came of it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc
from benchmarks.door_echo import METHOD

CALL_SECONDS = 60.0
READY = "ready"
MODEL, PROMPT = "tiny-image", "a small green ring at the left on a yellow background"
Call = Callable[[], Awaitable[Any]]


@dataclass
class Job:
    """What to call, and how.

    Attributes:
        kind: echo, submit, get, cancel or watch.
        callers: one call after another each; 0: `rate` calls a second, whatever becomes of them.
        ids: of generations to get, each in its turn; to cancel, once each; to watch, by as many
            watchers each as make `callers` of them.
        key: an API key to show; empty: none. The echo asks for none.
    """

    kind: str
    address: str
    seconds: float
    callers: int = 0
    rate: float = 0.0
    ids: list[str] = field(default_factory=list)
    key: str = ""


@dataclass
class Came:
    """What came of it. Seconds."""

    rate: float = 0.0
    waited: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)  # of what was made
    cpu: float = 0.0  # the caller's own, a call
    views: int = 0  # that watchers saw
    ends: int = 0  # final ones among them


def request() -> pb.CreateGenerationRequest:
    """With a request_id of its own, as everybody's should be."""
    image = pb.ImageSpec(prompt=PROMPT, steps=20, guidance=2.0)
    return pb.CreateGenerationRequest(request_id=secrets.token_hex(16), model=MODEL, image=image)


async def do(job: Job) -> Came:
    """Open a channel, warm up, and do it."""
    came = Came()
    async with grpc.aio.insecure_channel(job.address) as channel:
        if job.kind == "watch":
            await _watch(job, channel, came)
            return came
        call = _call(job, channel, came)
        if job.kind == "cancel":
            await asyncio.gather(*(_timed(call, came) for _ in job.ids))
            return came
        await asyncio.gather(*(_timed(call, Came()) for _ in range(8)))
        cpu, began = time.process_time(), time.monotonic()
        if job.callers:
            await _closed(job, call, came, began)
        else:
            await _open(job, call, came, began)
        took = time.monotonic() - began
        came.rate = len(came.waited) / took
        came.cpu = (time.process_time() - cpu) / max(1, len(came.waited))
    return came


def _call(job: Job, channel: grpc.aio.Channel, came: Came) -> Call:
    door, shown = generation_pb2_grpc.GenerationServiceStub(channel), _shown(job)
    if job.kind == "echo":
        echo = channel.unary_unary(
            METHOD,
            request_serializer=pb.CreateGenerationRequest.SerializeToString,
            response_deserializer=pb.CreateGenerationRequest.FromString,
        )
        return lambda: echo(request(), timeout=CALL_SECONDS)
    if job.kind == "get":
        ids = itertools.cycle(job.ids)
        return lambda: door.GetGeneration(
            pb.GetGenerationRequest(id=next(ids)), timeout=CALL_SECONDS, metadata=shown
        )
    if job.kind == "cancel":
        once = iter(job.ids)
        return lambda: door.CancelGeneration(
            pb.CancelGenerationRequest(id=next(once)), timeout=CALL_SECONDS, metadata=shown
        )

    async def submit() -> None:
        answer = await door.CreateGeneration(request(), timeout=CALL_SECONDS, metadata=shown)
        came.ids.append(answer.generation.id)

    return submit


def _shown(job: Job) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {job.key}")] if job.key else []


async def _closed(job: Job, call: Call, came: Came, began: float) -> None:
    async def caller() -> None:
        while time.monotonic() - began < job.seconds:
            await _timed(call, came)

    await asyncio.gather(*(caller() for _ in range(job.callers)))


async def _open(job: Job, call: Call, came: Came, began: float) -> None:
    """Each call is timed from when it was due: one that had to wait for its turn waited."""
    asked = []
    for number in range(int(job.rate * job.seconds)):
        due = began + number / job.rate
        if (pause := due - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        asked.append(asyncio.create_task(_timed(call, came, due)))
    await asyncio.gather(*asked)


async def _watch(job: Job, channel: grpc.aio.Channel, came: Came) -> None:
    """All at once. Says READY when each has seen how things stand; then waits for the ends."""
    door = generation_pb2_grpc.GenerationServiceStub(channel)
    unseen = job.callers
    ready = asyncio.Event()

    async def watcher(generation_id: str) -> None:
        nonlocal unseen
        seen, state = 0, pb.GENERATION_STATE_UNSPECIFIED
        request = pb.WatchGenerationRequest(id=generation_id)
        try:
            async for answer in door.WatchGeneration(
                request, timeout=job.seconds, metadata=_shown(job)
            ):
                seen, state = seen + 1, answer.generation.state
                if seen == 1:
                    unseen -= 1
                    if not unseen:
                        ready.set()
        except grpc.aio.AioRpcError as error:
            name = error.code().name
            came.errors[name] = came.errors.get(name, 0) + 1
        came.views += seen
        came.ends += state == pb.GENERATION_STATE_CANCELLED

    ids = itertools.islice(itertools.cycle(job.ids), job.callers)
    watching = [asyncio.create_task(watcher(one)) for one in ids]
    await asyncio.wait_for(ready.wait(), job.seconds)
    print(READY, flush=True)
    began = time.monotonic()
    await asyncio.gather(*watching)
    came.waited.append(time.monotonic() - began)


async def _timed(call: Call, came: Came, due: float | None = None) -> None:
    began = time.monotonic() if due is None else due
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        name = error.code().name
        came.errors[name] = came.errors.get(name, 0) + 1
        return
    came.waited.append(time.monotonic() - began)


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(do(Job(**json.loads(sys.argv[1])))))))
