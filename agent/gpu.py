"""Asks the driver of one GPU, in a thread of its own and with a limit to its patience.

A driver that hangs holds that thread and nothing else: until it answers no second question is
asked, and who asks meanwhile gets its last answer, marked as such.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import structlog

from agent.work import NOTHING, Measure

log = structlog.get_logger()

PATIENCE_SECONDS = 2.0


class Driver(Protocol):
    """What the driver tells of one GPU. Blocks."""

    def sample(self) -> Measure: ...
    def used(self) -> int: ...


class Gauge:
    """One device's measures; `driver` is None where there is none, and nothing is known then."""

    def __init__(self, driver: Driver | None, device_id: str) -> None:
        self._driver = driver
        self._device_id = device_id
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"nvml-{device_id}")
        self._pending: asyncio.Future[object] | None = None
        self._last = NOTHING

    async def sample(self) -> Measure:
        """All that is known; the last that was where the driver does not answer in time."""
        if self._driver is None:
            return NOTHING
        told = await self._ask(self._driver.sample)
        if isinstance(told, Measure):
            self._last = told
            return told
        return replace(self._last, answered=False)

    async def used_bytes(self) -> int:
        """Bytes in use; 0 where that is not known."""
        if self._driver is None:
            return 0
        told = await self._ask(self._driver.used)
        return told if isinstance(told, int) else 0

    def close(self) -> None:
        """Ask nothing more. A call that hangs is left behind."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, question: Callable[[], object]) -> object:
        """The answer; None where there is none within PATIENCE_SECONDS."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + PATIENCE_SECONDS
        while (busy := self._pending) is not None:  # with somebody else's question
            await asyncio.wait({busy}, timeout=max(0.0, give_up - loop.time()))
            if not busy.done():
                return None
            if self._pending is busy:
                self._pending = None
        asked = loop.run_in_executor(self._thread, question)
        self._pending = asked
        await asyncio.wait({asked}, timeout=max(0.0, give_up - loop.time()))
        if not asked.done():  # who asks from now on finds it pending, and is not told
            log.warning("the driver gave no answer", device=self._device_id,
                        seconds=PATIENCE_SECONDS)  # fmt: skip
            return None
        if self._pending is asked:
            self._pending = None
        return asked.result()
