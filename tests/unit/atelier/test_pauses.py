"""What holds the loop up is told, and the collector is kept from it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from atelier import pauses


class Node:
    """A cycle: only the collector can free it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    yield reader
    reader.shutdown()


def points(reader: InMemoryMetricReader, name: str) -> list[HistogramDataPoint]:
    data = reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else []
    return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


async def watch(reader: InMemoryMetricReader, until: str, least: int = 1) -> asyncio.Task[None]:
    """Pauses at work, from the moment that it told something under that name."""
    provider = MeterProvider([reader], shutdown_on_exit=False)
    task = asyncio.create_task(pauses.Pauses(provider.get_meter("test")).run())
    await told(reader, until, least)
    return task


async def told(reader: InMemoryMetricReader, name: str, least: int) -> None:
    async with asyncio.timeout(10):
        while sum(p.count for p in points(reader, name)) < least:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_collection_is_told_with_its_generation_and_its_seconds(
    reader: InMemoryMetricReader,
) -> None:
    task = await watch(reader, "atelier.loop.lag")
    before = sum(p.count for p in points(reader, "atelier.gc.pause"))
    gc.collect()
    await told(reader, "atelier.gc.pause", before + 1)
    full = [p for p in points(reader, "atelier.gc.pause") if p.attributes == {"generation": 2}]
    await stop(task)
    assert len(full) == 1
    assert full[0].count >= 1
    assert full[0].sum > 0
    assert len(gc.callbacks) == 0 or all(c.__name__ != "_collected" for c in gc.callbacks)


async def test_what_does_not_give_way_shows_as_lag(reader: InMemoryMetricReader) -> None:
    task = await watch(reader, "atelier.loop.lag")
    await asyncio.sleep(0)  # let it sleep, to be woken late
    time.sleep(0.5)  # noqa: ASYNC251 - this is what is to be found
    [point] = points(reader, "atelier.loop.lag")
    await told(reader, "atelier.loop.lag", point.count + 1)
    [point] = points(reader, "atelier.loop.lag")
    await stop(task)
    assert point.max >= 0.3


def test_settled_freezes_and_gives_all_back() -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    with pauses.settled():
        assert gc.get_freeze_count() > 1_000
        assert gc.get_threshold() == pauses.THRESHOLDS
        kept = [Node() for _ in range(100)]
        at_first = gc.get_freeze_count()
        gc.collect()
        assert gc.get_freeze_count() >= at_first + len(kept)  # survivors are passed over, too
        assert not any(node in kept for node in gc.get_objects() if isinstance(node, Node))
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == frozen == 0


async def test_by_the_clock_frozen_cycles_are_found_in_a_quiet_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pauses, "COLLECT_SECONDS", 0.001)
    freed = asyncio.Event()

    class Cycle(Node):
        def __del__(self) -> None:
            freed.set()

    now, quiet = 0.0, False
    with pauses.settled():
        cycle = Cycle()
        gc.collect()
        assert not any(node is cycle for node in gc.get_objects())  # frozen
        task = asyncio.create_task(pauses.collect(lambda: quiet, lambda: now))
        await asyncio.sleep(0.1)
        del cycle
        now = pauses.QUIET_THAW_SECONDS
        await asyncio.sleep(0.1)
        assert not freed.is_set()  # generations wait: not now
        quiet = True
        async with asyncio.timeout(10):
            await freed.wait()
        await stop(task)


async def test_nothing_waits_for_longer_than_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "COLLECT_SECONDS", 0.001)
    freed = asyncio.Event()

    class Cycle(Node):
        def __del__(self) -> None:
            freed.set()

    now = 0.0
    with pauses.settled():
        cycle = Cycle()
        gc.collect()
        task = asyncio.create_task(pauses.collect(lambda: False, lambda: now))
        await asyncio.sleep(0.05)
        del cycle
        now = pauses.THAW_SECONDS
        async with asyncio.timeout(10):
            await freed.wait()
        await stop(task)
