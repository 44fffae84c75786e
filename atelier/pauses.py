"""What holds the loop up: Python's garbage collector, and anything else that does not give way.

The problem, of the scheduler. Every decision waits while the collector runs. It looks at all
objects of the generations that it collects: a full collection at everything that is alive, so that
the pause grows with the queue. A young one is meant to be small, but Python starts it by what was
made *less what was freed*: in a scheduler whose queue neither grows nor shrinks that is about
nothing, and the young generation comes to hold everything that is queued.

The design (measured by benchmarks/bench_pauses.py). Collections come by the clock, young ones
often, so that each finds only what was made since. What is alive when the scheduler begins to serve
is frozen, that is never looked at again; so is what a full collection leaves alive: the next one
looks at what was made in between, however long the queue is. What is frozen is freed when nobody
refers to it any more, as everything is; only cycles among frozen objects stay. So all is thawed and
looked at in a quiet moment, now and then, and once an hour in any case.

A gateway has the same pauses for another reason: what is refused leaves cycles behind (an error and
its traceback), and 20,000 young objects took 25 ms. There too young ones are collected often, but
nothing is frozen that came after the start: a call that was frozen while it ran would leave its
cycles until all is thawed (`collect_calls`).

Refused: switching the collector off. Tasks and their exceptions make cycles, and a scheduler runs
for months.

The trap: the collector calls back in the middle of whatever allocates, on any thread, also inside
of an instrument that holds its lock. So `_collected` only appends to a deque, and the loop records.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry.metrics import Meter

from atelier.instruments import GC_COLLECTED, GC_FROZEN, GC_PAUSE, LOOP_LAG
from atelier.metrics import counter, histogram, observe

THRESHOLDS = 20_000, 20, 100  # Python's own starts: for bursts between two of ours
COLLECT_SECONDS, FULL_EVERY = 0.1, 10  # young ones, and each tenth a full one
CALLS_FULL_EVERY = 600  # of calls: each tenth looks at those that outlived a young one, too
QUIET_THAW_SECONDS, THAW_SECONDS = 600.0, 3_600.0
LOOK_SECONDS = 0.1  # how often the lag of the loop is looked at
MOST_WAITING = 10_000  # pauses that the loop did not record yet


def set_aside() -> None:
    """What is there is never looked at again, and the rest less often than Python would."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


@contextmanager
def settled() -> Iterator[None]:
    """Freeze what is there, and what full collections leave; on leaving, all is as it was."""
    before = gc.get_threshold()
    set_aside()
    gc.callbacks.append(_freeze_survivors)
    try:
        yield
    finally:
        gc.callbacks.remove(_freeze_survivors)
        gc.set_threshold(*before)
        gc.unfreeze()


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


async def collect(quiet: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
    """Collect by the clock until cancelled.

    Args:
        quiet: whether nothing waits, so that a long pause delays nobody.
    """
    thawed = clock()
    for turn in itertools.count(1):
        await asyncio.sleep(COLLECT_SECONDS)
        if turn % FULL_EVERY:
            gc.collect(0)
            continue
        if clock() - thawed >= (QUIET_THAW_SECONDS if quiet() else THAW_SECONDS):
            gc.unfreeze()
            thawed = clock()
        gc.collect()


async def collect_calls() -> None:
    """Collect by the clock until cancelled, where what lives are calls, most of them short."""
    for turn in itertools.count(1):
        await asyncio.sleep(COLLECT_SECONDS)
        gc.collect(0 if turn % FULL_EVERY else 1 if turn % CALLS_FULL_EVERY else 2)


class Pauses:
    """Tells a meter how long the collector paused us, and how late the loop was."""

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._waiting: deque[tuple[int, float, int]] = deque(maxlen=MOST_WAITING)
        self._began = 0.0
        self._pauses = histogram(meter, GC_PAUSE)
        self._garbage = counter(meter, GC_COLLECTED)
        self._lag = histogram(meter, LOOP_LAG)
        observe(meter, GC_FROZEN, lambda: [(gc.get_freeze_count(), {})])

    async def run(self) -> None:
        """Watch until cancelled."""
        gc.callbacks.append(self._collected)
        try:
            while True:
                began = self._clock()
                await asyncio.sleep(LOOK_SECONDS)
                self._lag.record(max(0.0, self._clock() - began - LOOK_SECONDS))
                self._record()
        finally:
            gc.callbacks.remove(self._collected)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = self._clock()
        else:
            seconds = self._clock() - self._began
            self._waiting.append((info["generation"], seconds, info["collected"]))

    def _record(self) -> None:
        while self._waiting:
            generation, seconds, collected = self._waiting.popleft()
            self._pauses.record(seconds, {"generation": generation})
            self._garbage.add(collected)
