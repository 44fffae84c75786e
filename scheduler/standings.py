"""How things stand, for gauges: looked at by the scheduler's loop, handed out to who scrapes.

A scrape comes in a thread of its own, and must not look at what the loop changes meanwhile. So the
loop looks, in small pieces, and leaves finished lists to be taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from opentelemetry.metrics import Meter

from atelier import instruments as told
from atelier.generation import Priority
from atelier.instruments import Instrument
from atelier.metrics import Labels, is_scraped, observe
from scheduler.device import Device
from scheduler.fleet import AWAY, Fleet
from scheduler.live import Live
from scheduler.measures import NAMES, Names

LOOK_SECONDS = 0.5  # what devices do
ALL_EVERY = 6  # looks: then at queues, too
MOST_DEVICES = 300  # with series of their own; of more, the first by their ids
AT_ONCE = 500  # tickets or devices between two turns of the loop

Points = list[tuple[float, Labels]]

_GAUGES = (
    told.QUEUE_DEPTH, told.QUEUE_MODELS, told.QUEUE_OLDEST, told.WATCHERS, told.RESIDENT,
    told.BREAKERS, told.DEVICE_STATE, told.DEVICE_TIME, told.DEVICE_MEMORY,
    told.DEVICE_UTILISATION, told.DEVICE_TEMPERATURE, told.BATCH_ROWS,
)  # fmt: skip


class Standings:
    """Queues, models and devices."""

    def __init__(
        self, meter: Meter, live: Live, fleet: Fleet, names: Names, *, clock: Callable[[], float]
    ) -> None:
        self._scraped = is_scraped(meter)
        self._live = live
        self._fleet = fleet
        self._names = names
        self._clock = clock
        self._points: dict[Instrument, Points] = {gauge: [] for gauge in _GAUGES}
        self._did: defaultdict[tuple[str, str], float] = defaultdict(float)  # (device, doing)
        self._looked = clock()
        self._queues_seen: set[tuple[str, str]] = set()
        for gauge in _GAUGES:
            observe(meter, gauge, lambda gauge=gauge: self._points[gauge])  # type: ignore[misc]

    async def run(self) -> None:
        """Look until cancelled; where nobody scrapes, only wait for that."""
        if not self._scraped:
            await asyncio.Event().wait()
        while True:
            for number in range(ALL_EVERY):
                self._times()
                if number == 0:
                    await self.look()
                await asyncio.sleep(LOOK_SECONDS)

    def _times(self) -> None:
        """What each device does now, it did since the last look."""
        now = self._clock()
        seconds, self._looked = now - self._looked, now
        devices = self._named_devices()
        for device in devices:
            self._did[device.id, _doing(device)] += seconds
        here = {device.id for device in devices}
        for gone in [key for key in self._did if key[0] not in here]:
            del self._did[gone]
        self._points[told.DEVICE_TIME] = [
            (total, {"device": device, "doing": doing})
            for (device, doing), total in self._did.items()
        ]

    def _named_devices(self) -> list[Device]:
        devices = self._live.sched.devices
        if len(devices) <= MOST_DEVICES:
            return list(devices.values())
        return [devices[name] for name in sorted(devices)[:MOST_DEVICES]]

    async def look(self) -> None:
        """Queues first, then models and devices."""
        await self._queues()
        await self._devices()
        self._points[told.WATCHERS] = [(len(self._live.watchers), {})]

    async def _queues(self) -> None:
        depth, models, oldest = Counter[tuple[str, str]](), Counter[str](), dict[str, float]()
        now = self._clock()
        for queue in list(self._live.sched.queues):
            models[self._names.model(queue.key[0])] += len(queue)
            for number, ticket in enumerate(list(queue)):
                priority = NAMES[ticket.level]
                depth[self._names.tenant(ticket.tenant), priority] += 1
                oldest[priority] = max(oldest.get(priority, 0.0), now - ticket.submitted)
                if number % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
        self._queues_seen |= depth.keys()  # an empty queue is told as 0, and not left out
        self._points[told.QUEUE_DEPTH] = [
            (depth[key], {"tenant": key[0], "priority": key[1]}) for key in self._queues_seen
        ]
        every = {self._names.model(name) for name in self._live.sched.models}
        self._points[told.QUEUE_MODELS] = [(models[name], {"model": name}) for name in every]
        self._points[told.QUEUE_OLDEST] = [
            (oldest.get(priority.value, 0.0), {"priority": priority.value}) for priority in Priority
        ]

    async def _devices(self) -> None:
        resident, barred = Counter[str](), Counter[str]()
        points: dict[Instrument, Points] = defaultdict(list)
        now = self._clock()
        for number, device in enumerate(list(self._live.sched.devices.values())):
            resident.update(self._names.model(model) for model in device.resident)
            barred.update(self._names.model(m) for m in device.breakers if device.bars(m, now))
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        for device in self._named_devices():
            for gauge, value, labels in self._of(device):
                points[gauge].append((value, {"device": device.id, **labels}))
        every = {self._names.model(name) for name in self._live.sched.models}
        points[told.RESIDENT] = [(resident[name], {"model": name}) for name in every]
        points[told.BREAKERS] = [(barred[name], {"model": name}) for name in every]
        for gauge in _GAUGES[4:]:
            if gauge is not told.DEVICE_TIME:
                self._points[gauge] = points[gauge]

    def _of(self, device: Device) -> Iterator[tuple[Instrument, float, Labels]]:
        yield told.DEVICE_STATE, 1, {"state": _state(device)}
        yield told.BATCH_ROWS, sum(ticket.rows for ticket in device.running.values()), {}
        free = device.free(self._live.sched.models)
        yield told.DEVICE_MEMORY, device.declared, {"kind": "declared"}
        yield told.DEVICE_MEMORY, device.capacity - free, {"kind": "reserved"}
        sample = self._fleet.samples.get(device.id)
        if sample and sample.measured_bytes:
            yield told.DEVICE_MEMORY, sample.measured_bytes, {"kind": "measured"}
        if sample and sample.driver_answered:
            yield told.DEVICE_UTILISATION, sample.utilisation_percent / 100, {}
            yield told.DEVICE_TEMPERATURE, sample.temperature_celsius, {}


def _doing(device: Device) -> str:
    if device.quarantined:
        return "away"
    if device.running:
        return "running"
    return "loading" if device.loading else "idle"


def _state(device: Device) -> str:
    if device.quarantined:
        return "lost" if device.quarantined == AWAY else "quarantined"
    if device.drained:
        return "draining" if device.running else "drained"
    return "ready"
