"""The whole stack over sleeping models, and a trace sent through its front door by the clock."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from atelier.embedded.part import Part
from atelier.embedded.stack import StackOptions, build
from atelier.embedded.state import StateDir
from atelier.embedded.supervisor import Hooks, Supervisor
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc
from benchmarks.device_time import Done
from scheduler.runqueue import Ticket

GUIDANCE_STEP = 1e-3  # as in sleeping_model.py
PRIORITIES = (pb.PRIORITY_BATCH, pb.PRIORITY_NORMAL, pb.PRIORITY_INTERACTIVE)
FINAL = {
    pb.GENERATION_STATE_SUCCEEDED,
    pb.GENERATION_STATE_FAILED,
    pb.GENERATION_STATE_CANCELLED,
    pb.GENERATION_STATE_EXPIRED,
}
CALL_SECONDS, POLL_SECONDS, DRAIN_SECONDS = 30.0, 0.5, 180.0


@dataclass(frozen=True)
class Ended:
    """What became of a request. Seconds after the trace's beginning."""

    number: int
    submitted: float  # by the trace
    finished: float
    succeeded: bool
    device: str
    attempts: int


@dataclass(frozen=True)
class Drive:
    """What a run of the real thing came to."""

    ended: list[Ended]
    done: list[Done]
    late_submits: float  # the most that a call was sent after its time, seconds


@asynccontextmanager
async def running(
    folder: Path, options: StackOptions, prepare: Callable[[Part], None] = lambda _: None
) -> AsyncIterator[str]:
    """The stack in `folder`; its gateway's address. `prepare` may change a part before it
    starts."""
    state = StateDir(folder)
    state.create()
    stack = build(state, options)
    for part in stack.parts:
        prepare(part)
    supervisor = Supervisor(stack.parts, state.logs, Hooks(notice=print))
    try:
        await supervisor.start()
        yield stack.gateway
    finally:
        await supervisor.stop()


async def drive(gateway: str, folder: Path, requests: Sequence[Ticket]) -> Drive:
    """Send every request at its time, and wait until all have ended.

    Raises:
        TimeoutError: they do not end.
    """
    async with grpc.aio.insecure_channel(gateway) as channel:
        door = generation_pb2_grpc.GenerationServiceStub(channel)
        began, began_wall = time.monotonic(), time.time()
        late = 0.0
        sending = []
        for ticket in requests:
            await asyncio.sleep(began + ticket.submitted - time.monotonic())
            late = max(late, time.monotonic() - began - ticket.submitted)
            sending.append(asyncio.create_task(_send(door, ticket)))
        ids = dict(zip(await asyncio.gather(*sending), requests, strict=True))
        last = requests[-1].submitted + DRAIN_SECONDS
        ended: list[Ended] = []
        while ids:
            answers = [await _get(door, name) for name in ids]
            final = [answer for answer in answers if answer.state in FINAL]
            ended += [_ended(answer, ids.pop(answer.id), began_wall) for answer in final]
            if time.monotonic() - began > last:
                raise TimeoutError(f"{len(ids)} generations do not end: {list(ids)[:3]} ...")
            await asyncio.sleep(POLL_SECONDS)
    return Drive(ended, spans(folder, began), late)


def spans(folder: Path, began: float) -> list[Done]:
    """What the sleeping models wrote down, of all devices of the stack in `folder`."""
    return [
        Done(
            kind=line["kind"],
            device=f"cpu-{path.parent.name}",
            began=line["began"] - began,
            ended=line["ended"] - began,
            nominal=line["nominal"],
            requests=tuple(line["requests"]),
            row_steps=line["rows"] if line["kind"] == "steps" else 0,
        )
        for path in sorted((folder / "triton").glob("*/spans.jsonl"))
        for line in map(json.loads, path.read_text().splitlines())
    ]


def twice(done: Iterable[Done], requests: Iterable[Ticket]) -> list[int]:
    """Requests of which not exactly every step was made, once, and one decode."""
    steps: dict[int, int] = {}
    decodes: dict[int, int] = {}
    for one in done:
        counts = steps if one.kind == "steps" else decodes
        for number in one.requests:
            counts[number] = counts.get(number, 0) + 1
    return [
        n
        for n, t in ((int(t.id), t) for t in requests)
        if (steps.get(n), decodes.get(n)) != (t.steps, 1)
    ]


async def _send(door: generation_pb2_grpc.GenerationServiceStub, ticket: Ticket) -> str:
    number = int(ticket.id)
    image = pb.ImageSpec(
        prompt="sleep", steps=ticket.steps, guidance=1 + number * GUIDANCE_STEP, seed=number
    )
    request = pb.CreateGenerationRequest(
        request_id=f"trace-{number}",
        model=ticket.model,
        image=image,
        priority=PRIORITIES[ticket.level],
    )
    answer = await door.CreateGeneration(request, timeout=CALL_SECONDS)
    return str(answer.generation.id)


async def _get(door: generation_pb2_grpc.GenerationServiceStub, name: str) -> pb.Generation:
    answer = await door.GetGeneration(pb.GetGenerationRequest(id=name), timeout=CALL_SECONDS)
    found: pb.Generation = answer.generation
    return found


def _ended(answer: pb.Generation, ticket: Ticket, began_wall: float) -> Ended:
    return Ended(
        number=int(ticket.id),
        submitted=ticket.submitted,
        finished=answer.finish_time.ToNanoseconds() / 1e9 - began_wall,
        succeeded=answer.state == pb.GENERATION_STATE_SUCCEEDED,
        device=answer.provenance.device,
        attempts=answer.attempt,
    )
