"""WatchFleet: a snapshot, then decisions as they are made and devices as they change.

Nothing is kept for a watcher but how far it is: decisions come from the ring that all share
(recent.py), devices are compared with those told last. So a reader that stops reading stops only
its own stream; it is told how many decisions it missed, and of each device the latest.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from atelier.errors import ResourceExhaustedError, UnavailableError
from atelier.v1 import fleet_pb2 as pb
from scheduler.fleet_view import FleetView, decision_to
from scheduler.recent import Recent, Record

MOST_AT_ONCE = 1_000  # decisions in a message
PAUSE_SECONDS = 0.05  # between two messages with decisions: many decisions cost few messages
SHARED_SECONDS = 0.2  # for so long at least, a look at the fleet serves all watchers
MOST_WATCHERS = 50


class FleetWatch:
    """All watchers' streams."""

    def __init__(
        self, view: FleetView, recent: Recent, *, epoch: int, clock: Callable[[], float]
    ) -> None:
        self._looks = _Looks(view, clock)
        self._recent = recent
        self._epoch = epoch
        self._clock = clock
        self._watchers = 0
        self._ending = asyncio.Event()

    def welcome(self) -> None:
        """Watchers can come from now on."""
        self._ending.clear()

    def end_all(self) -> None:
        """Whoever watches will be served by the next scheduler."""
        self._ending.set()
        self._recent.wake()

    async def follow(
        self, *, interval_seconds: float, past: int
    ) -> AsyncGenerator[pb.WatchFleetResponse, None]:
        """What there is to tell, until the scheduler ends; `past` decisions before the first.

        Raises:
            ResourceExhaustedError: there are too many watchers.
            UnavailableError: the scheduler ends.
        """
        if self._watchers >= MOST_WATCHERS:
            raise ResourceExhaustedError(
                f"{MOST_WATCHERS} watch the fleet already; try again later", retry_after_seconds=5.0
            )
        self._watchers += 1
        try:
            with self._recent.watching() as news:
                answers = self._follow(news, interval_seconds, past)
                async with aclosing(answers):
                    async for answer in answers:
                        yield answer
        finally:
            self._watchers -= 1

    async def _follow(
        self, news: asyncio.Event, interval_seconds: float, past: int
    ) -> AsyncGenerator[pb.WatchFleetResponse, None]:
        before = self._recent.latest(past)
        sequence = self._recent.last
        told = _Told(await self._looks.latest())
        next_look = self._clock() + interval_seconds
        yield pb.WatchFleetResponse(
            snapshot=pb.FleetSnapshot(
                devices=told.look.devices.values(),
                queues=told.look.queues,
                epoch=self._epoch,
                last_sequence=sequence,
            )
        )
        if before:
            yield _decisions(before)
        while not self._ending.is_set():
            news.clear()
            missed, records = self._recent.since(sequence, MOST_AT_ONCE)
            sequence += missed + len(records)
            if missed:
                yield pb.WatchFleetResponse(gap=pb.FleetGap(missed_decisions=missed))
            if records:
                yield _decisions(records)
            if self._clock() >= next_look:
                change = told.change(await self._looks.latest())
                next_look = self._clock() + interval_seconds
                if change is not None:
                    yield pb.WatchFleetResponse(change=change)
            if records:
                await asyncio.sleep(PAUSE_SECONDS)
            if sequence < self._recent.last:
                continue
            try:
                async with asyncio.timeout(max(0.0, next_look - self._clock())):
                    await news.wait()
            except TimeoutError:
                pass
        raise UnavailableError("the scheduler is stopping; try again", retry_after_seconds=1.0)


@dataclass(frozen=True)
class _Look:
    """Devices by id, and queues, as they were at one time."""

    devices: dict[str, pb.Device]
    queues: list[pb.Queue]


class _Looks:
    """Looks at the fleet that all watchers share: however many they are, that takes at most a
    twentieth of the scheduler's time."""

    def __init__(self, view: FleetView, clock: Callable[[], float]) -> None:
        self._view = view
        self._clock = clock
        self._one = asyncio.Lock()
        self._look = _Look({}, [])
        self._next = -math.inf  # when to look anew

    async def latest(self) -> _Look:
        async with self._one:
            began = self._clock()
            if began >= self._next:
                devices = {device.id: device for device in await self._view.devices()}
                self._look = _Look(devices, await self._view.queues())
                took = self._clock() - began
                self._next = began + max(SHARED_SECONDS, 20 * took)
            return self._look


class _Told:
    """What one watcher was told of devices and queues."""

    def __init__(self, look: _Look) -> None:
        self.look = look

    def change(self, now: _Look) -> pb.FleetChange | None:
        """What is different now, if anything; from here on, it is told."""
        before, self.look = self.look, now
        changed = [d for id_, d in now.devices.items() if before.devices.get(id_) != d]
        gone = sorted(before.devices.keys() - now.devices.keys())
        if not changed and not gone and before.queues == now.queues:
            return None
        return pb.FleetChange(devices=changed, gone_device_ids=gone, queues=now.queues)


def _decisions(records: Sequence[Record]) -> pb.WatchFleetResponse:
    told = pb.FleetDecisions(decisions=[decision_to(record) for record in records])
    return pb.WatchFleetResponse(decisions=told)
