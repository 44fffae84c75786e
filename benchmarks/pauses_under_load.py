"""One scheduler's memory under load, and the collector's pauses in it: the worker of bench_pauses.

A real Live and Sched, in a process that imported all that the scheduler imports: the queue fills,
is churned through, and swings. Only the database and the agents are missing; messages are made and
read as the servicers do. Of each collection we tell the CPU and wall milliseconds; or, in a run of
its own since counting takes time, how many objects it looked at, which no other work can disturb.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import scheduler.app  # noqa: F401 - what a scheduler has in memory
from atelier.generation import Generation, Result, State, new_id
from atelier.pauses import collect, settled
from atelier.service import tasks
from atelier.spec import ImageSpec
from atelier.translate import generation_from, generation_to
from atelier.v1 import agent_pb2 as pb
from atelier.v1.generation_pb2 import PHASE_DENOISING
from scheduler.decisions import Bind, Boundary, Load
from scheduler.lines import Lines
from scheduler.live import Live
from scheduler.model import Model, Shape
from scheduler.sched import Sched
from scheduler.simulation.scenario import GB
from scheduler.watchers import Progress

QUEUED, DEVICES, MODELS, RESIDENT = 10_000, 64, 20, 4
FILL, CHURN, SWING = 3_000, 500, 1_000  # generations a second
CHURN_SECONDS, SLICE_SECONDS = 12.0, 0.02
SHAPE = Shape(0.01, 0.04, 0.1, 3 * GB, 8)
RESULT = Result(0, "results/k.png", "image/png", 10, 64, 64, "ab" * 32, 7)
REPORTS = 6  # of progress, a generation


@dataclass(frozen=True)
class Way:
    """How the collector is set up."""

    name: str
    frozen: bool = False  # what is there when the scheduler begins to serve, as is usually advised
    ours: bool = False  # as the scheduler does it (atelier/pauses.py)
    count: bool = False  # objects, instead of time


@dataclass
class Pause:
    generation: int
    objects: int
    cpu_ms: float
    wall_ms: float


@dataclass
class Collections:
    """Hears of every collection."""

    count: bool
    pauses: list[Pause] = field(default_factory=list)
    _objects: int = 0
    _cpu: float = 0.0
    _wall: float = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        generation = info["generation"]
        if phase == "start":
            if self.count:
                there = (gc.get_objects(generation=g) for g in range(generation + 1))
                self._objects = sum(map(len, there))
            self._cpu, self._wall = time.thread_time(), time.perf_counter()
            return
        cpu, wall = time.thread_time() - self._cpu, time.perf_counter() - self._wall
        self.pauses.append(Pause(generation, self._objects, 1e3 * cpu, 1e3 * wall))


class Churn:
    """Generations that come, run and end, as the loops around the core let them."""

    def __init__(self) -> None:
        models = {f"m{i}": Model(f"m{i}", 8 * GB, 6.0, {"64x64": SHAPE}) for i in range(MODELS)}
        self.live = Live(Sched(models, preemption=False), time.monotonic)
        self.lines = Lines(epoch=1)
        devices = tuple(f"d{i}" for i in range(DEVICES))
        self.line, _ = self.lines.open("n", devices)
        for i, name in enumerate(devices):
            there = [f"m{(i * RESIDENT + j) % MODELS}" for j in range(RESIDENT)]
            self.live.did(
                self.live.sched.device_up(name, "n", 80 * GB, time.monotonic(), resident=there)
            )
        self._numbers = itertools.count(1)
        self._tokens = itertools.count(1)
        self._running: list[Generation] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def pace(self, seconds: float, *, come: float, end: float) -> None:
        """Let so many come and so many end, a second."""
        began = time.monotonic()
        came = ended = 0
        while (gone := time.monotonic() - began) < seconds:
            while came < gone * come:
                await asyncio.create_task(self._submit())
                came += 1
            self._decide()
            await asyncio.sleep(SLICE_SECONDS)
            due = int(gone * end) - ended
            for row in self._running[:due]:
                self._end(row)
            ended += min(due, len(self._running))
            del self._running[:due]

    async def _submit(self) -> None:
        n = next(self._numbers)
        spec = ImageSpec(f"a red circle, number {n}", "", 64, 64, 20, 1.5, n, 1, "ddim")
        new = Generation(
            new_id(time.time(), n), f"t{n % 8}", f"m{n * 7919 % MODELS}", spec, datetime.now(UTC),
            labels={"shown": "to nobody"}, request_id=str(n),
        )  # fmt: skip
        self.live.accepted(generation_from(generation_to(new), b"h" * 32))

    def _decide(self) -> None:
        live = self.live
        live.did(live.sched.tick(time.monotonic()))
        pending = live.decided()
        while pending:
            match pending.pop(0):
                case Boundary(device_id):
                    pending += live.sched.boundary(device_id, time.monotonic())
                case Load() as load:
                    live.did(live.sched.loaded(load.device_id, load.model, time.monotonic()))
                case Bind() as bind:
                    live.claiming.add(bind.ticket.id)
                    task = asyncio.create_task(self._run(bind.ticket.id, bind.device_id))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _run(self, generation_id: str, device_id: str) -> None:
        view, token = self.live.watchers.view(generation_id), next(self._tokens)
        assert view
        row = replace(view.generation, state=State.RUNNING, device=device_id, lease_token=token)
        self.live.claimed(row)
        self.lines.run(row, rows=1)
        self.line.outgoing.get_nowait()
        attempt = pb.Attempt(generation_id=row.id, lease_token=token, device_id=device_id)
        for step in range(REPORTS):
            told = pb.AttemptProgress(
                attempt=attempt, phase=PHASE_DENOISING, step=step, total_steps=20
            )
            wire = pb.ConnectRequest(progress=told).SerializeToString()
            heard = pb.ConnectRequest.FromString(wire).progress
            self.live.watchers.progress(row.id, Progress(heard.phase, heard.step, 20, 0.1))
        self._running.append(row)

    def _end(self, row: Generation) -> None:
        now = datetime.now(UTC)
        self.live.ended(replace(row, state=State.SUCCEEDED, results=(RESULT,), finish_time=now))


async def measure(way: Way) -> dict[str, object]:
    churn, heard = Churn(), Collections(way.count)
    async with AsyncExitStack() as stack:
        if way.frozen:
            gc.collect()
            gc.freeze()
        if way.ours:
            stack.enter_context(settled())
            loop = collect(quiet=lambda: not churn.live.queued)
            await stack.enter_async_context(tasks(collect=loop))
        gc.callbacks.insert(0, heard)
        stack.callback(gc.callbacks.remove, heard)
        began = time.thread_time()
        await churn.pace(QUEUED / FILL, come=FILL, end=0)
        await churn.pace(CHURN_SECONDS, come=CHURN, end=CHURN)
        await churn.pace(QUEUED / 2 / SWING, come=0, end=SWING)
        await churn.pace(QUEUED / 2 / SWING, come=SWING, end=0)
        cpu, queued = time.thread_time() - began, churn.live.queued
        by_itself = list(heard.pauses)
        gc.collect()  # one that could come at any time
        forced = heard.pauses[len(by_itself)]
        return {
            "way": asdict(way),
            "queued": queued,
            "cpu_seconds": cpu,
            "pauses": [asdict(pause) for pause in by_itself],
            "forced_full": asdict(forced),
            "frozen_objects": gc.get_freeze_count(),
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(Way(**json.loads(sys.argv[1]))))))
