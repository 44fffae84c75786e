"""Delivers. Looks for lanes in which something is due, leases them, and works in each by itself, so
that a receiver which is slow, or away, delays nobody but itself.

    look -> lease lanes -> in each: what is due, two at a time -> note what came -> give it back

A lease ends by itself, and is longer than a worker ever takes: where one died after a POST and
before it noted that, the next one delivers again, under the same webhook-id.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from opentelemetry.metrics import Meter

from atelier.errors import AtelierError
from atelier.failpoints import failpoint
from atelier.instruments import (
    WEBHOOK_AGE,
    WEBHOOK_ATTEMPTS,
    WEBHOOK_LATENCY,
    WEBHOOK_WAITING,
)
from atelier.metrics import counter, gauge, histogram
from atelier.spans import about
from atelier.traces import Traces
from webhooks.message import body_of, headers_of
from webhooks.outbox import Due, Lane, Outbox
from webhooks.post import TOTAL_SECONDS, Poster
from webhooks.schedule import BREAKS_AT, GONE, Answer, again_seconds, closed_seconds
from webhooks.spans import span_of, took_seconds, went_wrong

log = structlog.get_logger()

LANES = 200  # at once; each has a task or two
AT_A_TIME = 2  # requests to one receiver
BATCH = 100  # deliveries read at once
WORK_SECONDS = 10.0  # then no further request is begun in a lane
LEASE_SECONDS = WORK_SECONDS + TOTAL_SECONDS + 10.0
LOOK_SECONDS = 0.25  # between two looks, while nothing wakes us
TEND_SECONDS = 10.0  # between two looks at the whole outbox

NO_SECRET = "not asked: there is no secret to sign with; RotateSecret makes one"  # noqa: S105


class Worker:
    """One a process; several processes share an outbox."""

    def __init__(
        self,
        outbox: Outbox,
        poster: Poster,
        meter: Meter,
        *,
        traces: Traces | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._outbox = outbox
        self._poster = poster
        self._traces = traces
        self._clock = clock
        self._rng = rng or random.SystemRandom()
        self._wake = asyncio.Event()
        self._lanes: set[asyncio.Task[None]] = set()
        self._attempts = counter(
            meter, WEBHOOK_ATTEMPTS, *({"outcome": o} for o in ("delivered", "failed", "given_up"))
        )
        self._took = histogram(meter, WEBHOOK_LATENCY)
        self._waiting = gauge(meter, WEBHOOK_WAITING)
        self._age = gauge(meter, WEBHOOK_AGE)

    async def run(self) -> None:
        """Until cancelled; then lanes are given back as they are."""
        try:
            while True:
                self._wake.clear()
                free = LANES - len(self._lanes)
                lanes, more = await self._claim(free) if free else ([], False)
                for lane in lanes:
                    task = asyncio.create_task(self._work(lane))
                    self._lanes.add(task)
                    task.add_done_callback(self._left)
                if not lanes and not more:
                    await self._rest()
        finally:
            for task in self._lanes:
                task.cancel()
            await asyncio.gather(*self._lanes, return_exceptions=True)

    async def tend(self) -> None:
        """Measure the outbox and drop what is old, until cancelled."""
        while True:
            try:
                waiting, age = await self._outbox.age()
                self._waiting.set(waiting)
                self._age.set(age)
                await self._outbox.forget()
            except AtelierError as error:
                log.warning("outbox not tended", error=str(error))
            await asyncio.sleep(TEND_SECONDS)

    async def _claim(self, limit: int) -> tuple[list[Lane], bool]:
        try:
            return await self._outbox.claim(limit, LEASE_SECONDS)
        except AtelierError as error:
            log.warning("no look at the outbox", error=str(error))
            return [], False

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS * (1 + self._rng.random() / 5)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _left(self, task: asyncio.Task[None]) -> None:
        self._lanes.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("lane failed", exc_info=error)

    async def _work(self, lane: Lane) -> None:
        """Deliver what is due in a lane, until nothing is, or the time is over, or it breaks."""
        visit = _Visit(lane.failures, self._clock() + WORK_SECONDS)
        try:
            due = deque(await self._outbox.due(lane, 1 if visit.broken else BATCH))
            both = (self._deliver(due, visit) for _ in range(AT_A_TIME))
            for ended in await asyncio.gather(*both, return_exceptions=True):
                if ended:  # seen once nobody works in the lane any more
                    raise ended
        except AtelierError as error:  # the database is away: the lease ends by itself
            log.warning("lane left", error=str(error))
        finally:
            await self._release(lane, visit)

    async def _release(self, lane: Lane, visit: _Visit) -> None:
        try:
            await self._outbox.release(lane, visit.failures, visit.closed_seconds)
        except AtelierError as error:
            log.warning("lane not given back; its lease ends by itself", error=str(error))

    async def _deliver(self, due: deque[Due], visit: _Visit) -> None:
        while due and not visit.closed_seconds and self._clock() < visit.ends:
            one = due.popleft()
            began = datetime.now(UTC)
            answer = await self._attempt(one)
            failpoint("webhook_sent_before_mark")
            if one.enabled:
                visit.heard(answer)
            again = again_seconds(answer, one.attempts + 1, self._rng.random())
            if one.kind == "webhook.test":
                again = None
            self._trace(one, answer, began, again)
            await self._outbox.attempted(one, answer, again)
            if answer.status == GONE and one.enabled and one.webhook_id:
                await self._outbox.gone(one.webhook_id)
                due.clear()
            self._tell(one, answer, again)

    async def _attempt(self, due: Due) -> Answer:
        if not due.enabled:
            return Answer(GONE, "webhook disabled")
        if not due.secrets:
            return Answer(0, NO_SECRET)
        try:
            body = body_of(due.kind, due.create_time, due.data)
            headers = headers_of(due.id, datetime.now(UTC), body, due.secrets)
            return await self._poster.post(due.url, body, headers)
        except Exception:  # a fault of ours, with this one; those behind it go on
            log.exception("attempt failed", **_whose(due))
            return Answer(0, "not asked: internal error")

    def _trace(self, due: Due, answer: Answer, began: datetime, again: float | None) -> None:
        """In a trace that is kept; of an attempt that failed, in any."""
        if self._traces is None or not due.generation_id:
            return
        whose = due.generation_id, due.trace_parent
        if not answer.delivered or self._traces.keeps(
            *whose, took_seconds(due), wrong=went_wrong(due)
        ):
            self._traces.add(*whose, [span_of(due, answer, began, datetime.now(UTC), again)])

    def _tell(self, due: Due, answer: Answer, again: float | None) -> None:
        if answer.delivered:
            self._attempts.add(1, {"outcome": "delivered"})
            self._took.record((datetime.now(UTC) - due.create_time).total_seconds())
        else:
            self._attempts.add(1, {"outcome": "failed" if again else "given_up"})
            log.info("not delivered", **_whose(due), status=answer.status, again_seconds=again)


def _whose(due: Due) -> dict[str, str]:
    """By what a line of the log is found: the delivery, and what it is about."""
    whose = about(due.generation_id, due.tenant, due.trace_parent) if due.generation_id else {}
    return {"delivery": due.id, "tenant": due.tenant, **whose}


class _Visit:
    """What is found out about a receiver while one works in its lane."""

    def __init__(self, failures: int, ends: float) -> None:
        self.failures = failures
        self.ends = ends
        self.closed_seconds = 0.0

    @property
    def broken(self) -> bool:
        return self.failures >= BREAKS_AT

    def heard(self, answer: Answer) -> None:
        if answer.delivered:
            self.failures = 0
        else:
            self.failures += 1
            self.closed_seconds = max(self.closed_seconds, closed_seconds(self.failures, answer))
