"""Who leads: one row of the database, a lease, and an epoch that rises with every new leader.

A scheduler that starts stands by until the lease is free, takes it with a new epoch, and renews it.
What it writes carries that epoch, and the database refuses a write of an epoch that is over
(migration 0003); its commands carry it too, and agents refuse those below the highest they have
heard. So leadership itself need not be certain, and no clock but the database's is asked: a leader
that was frozen and wakes may believe what it likes.

A leader whose lease has run out by its own clock, counted from before it asked for it, closes its
port: it may be cut off from the database alone, and gateways and agents that still reach it would
not look for the one who leads now. It keeps what is in memory, for while the database is away for
everybody nobody can take over. Renewing asks for the epoch alone, so a leader whose lease ran out,
but was not taken, opens its port again and goes on. It steps down, by ending, when it finds that
another leads, or when it could not renew for PATIENCE_SECONDS.

Whoever stands by also takes a lease that did not change for UNRENEWED_SECONDS by its own clock: one
that the database's clock, set back meanwhile, would keep for as long as it went back.

Refused: an advisory lock (a frozen leader keeps it for as long as the kernel answers for it, and a
pool that recycles connections drops it), and trust in a clock of ours for more than silence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from opentelemetry.metrics import Meter

from atelier.database import Database
from atelier.errors import UnavailableError
from atelier.failpoints import failpoint
from atelier.instruments import LEADER
from atelier.metrics import gauge

log = structlog.get_logger()

LEASE_SECONDS = 3.0
RENEW_SECONDS = 1.0
LOOK_SECONDS = 0.25  # between two looks of who stands by
UNRENEWED_SECONDS = 6.0  # after which a lease that did not change is nobody's
PATIENCE_SECONDS = 15.0  # for a database that cannot be reached


class LeadershipLostError(Exception):
    """This process leads no more, and should end."""


class Leadership:
    """One process's part in it. `database` is its own, so that nothing else delays a renewal."""

    def __init__(
        self,
        database: Database,
        holder: str,
        *,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`holder`: node and address, which one living process should have: the next one that has
        them takes its place when the lease has not been renewed for half its time. Not at once:
        two containers of one host name would depose each other for ever."""
        self._database = database
        self._holder = holder
        self._clock = clock
        self._sleep = sleep
        self._until = clock()  # when the lease has run out, by our own clock
        self._renewal = asyncio.Event()
        self._leads = gauge(meter, LEADER)
        self._leads.set(0)

    async def won(self) -> int:
        """Stand by until the lease is free, and take it; the new epoch."""
        told, until, since = "", "", self._clock()
        while True:
            try:
                found = await self._database.rows("leader")
                if found and found[0]["until"] != until:
                    until, since = found[0]["until"], self._clock()
                unrenewed = until if self._clock() - since > UNRENEWED_SECONDS else ""
                began = self._clock()
                kept = found and self._is_kept(found[0]) and not unrenewed
                if not kept and (epoch := await self._take(unrenewed)):
                    failpoint("leader_elected")
                    self._until = began + LEASE_SECONDS
                    log.info("leads", epoch=epoch)
                    self._leads.set(1)
                    return epoch
                if found and found[0]["holder"] != told:
                    told = found[0]["holder"]
                    log.info("stands by", leader=told, epoch=found[0]["epoch"])
            except UnavailableError as error:
                log.warning("database away", error=str(error))
            await self._sleep(LOOK_SECONDS)

    def _is_kept(self, row: Mapping[str, Any]) -> bool:
        return bool(row["fresh" if row["holder"] == self._holder else "leads"])

    async def _take(self, unrenewed: str) -> int | None:
        """The new epoch; None where another was quicker. `unrenewed`: until when the lease was
        that may be taken though it has not run out."""
        rows = await self._database.rows(
            "lead", holder=self._holder, lease_seconds=LEASE_SECONDS, unrenewed=unrenewed
        )
        if not rows:
            return None
        self._database.epoch = rows[0]["epoch"]
        return self._database.epoch

    async def run(self) -> None:
        """Renew the lease for as long as it is ours.

        Raises:
            LeadershipLostError: it is not, or nobody can tell.
        """
        renewed = self._clock()
        while True:
            await self._sleep(RENEW_SECONDS)
            began = self._clock()
            try:
                if not await self._database.rows("renew", lease_seconds=LEASE_SECONDS):
                    raise LeadershipLostError("another scheduler leads now")
                renewed = began
                self._until = began + LEASE_SECONDS
                self._renewal.set()
                failpoint("lease_renewed")
            except UnavailableError as error:
                away = self._clock() - renewed
                log.warning("lease not renewed", seconds=round(away, 1), error=str(error))
                if away >= PATIENCE_SECONDS:
                    raise LeadershipLostError(
                        f"the lease was not renewed for {away:.0f} s: another may lead"
                    ) from error

    async def serve(self, port: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        """Have the port open while the lease lasts, and again when it was renewed after all; until
        cancelled. `run` renews meanwhile."""
        while True:
            async with port():
                self._leads.set(1)
                while (left := self._until - self._clock()) > 0:
                    await self._sleep(left)
                log.warning("the lease ran out: serves nobody until it is renewed")
                self._leads.set(0)
            while self.has_lapsed():
                self._renewal.clear()
                await self._renewal.wait()
            log.info("the lease is renewed: serves again", epoch=self._database.epoch)

    def has_lapsed(self) -> bool:
        """Whether the lease has run out, as far as we know: another may lead."""
        return self._clock() >= self._until

    async def resign(self) -> None:
        """Let another lead at once. To be called when nothing is written any more."""
        try:
            await self._database.rows("resign")
            log.info("resigned", epoch=self._database.epoch)
        except UnavailableError as error:
            log.warning("not resigned; the lease runs out by itself", error=str(error))
