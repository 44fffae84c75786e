"""How attempts end: the agent's word, the database's verdict, then memory follows.

Every write carries the attempt's lease_token. Where the guard refuses, the attempt was lost before,
or an earlier write went through whose acknowledgement was not heard: the row is read, and memory
follows that. While the database is away, an outcome waits; it is never dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from atelier.errors import StorageRefusedError, UnavailableError
from atelier.failpoints import failpoint
from atelier.generation import (
    MAX_ATTEMPTS,
    MAX_EXCUSED,
    Failure,
    Generation,
    Provenance,
    Result,
    State,
)
from atelier.generation_store import GenerationStore
from atelier.spans import about
from scheduler.lines import Lines
from scheduler.live import Live

log = structlog.get_logger()

T = TypeVar("T")

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 30.0  # doubles with each attempt
# A Triton ended while it ran this, by itself or beside others (agent/blame.py).
KILLED, SUSPECT = "DEVICE_KILLED", "DEVICE_DIED"
MAX_KILLED = 2
# A part was away: the next attempt may well succeed, and the work is not to blame.
EXCUSED = (
    "DEVICE_UNAVAILABLE", "DEVICE_LOST", "MODEL_NOT_READY", "OBJECT_STORE_UNAVAILABLE",
    "UPLOAD_FAILED", KILLED, SUSPECT,
)  # fmt: skip
LOST, DEVICE = "AGENT_LOST", "DEVICE_LOST"
PREEMPTED = "PREEMPTED"  # taken off its device for another's sake; no limit, and no fault
AGENT_LOST = Failure("UNAVAILABLE", LOST, "its agent was lost, again and again")
DEVICE_LOST = Failure("UNAVAILABLE", DEVICE, "its devices failed, again and again")
STOPPED = Failure("UNAVAILABLE", "STOPPED", "its agent stopped it unasked, again and again")
POISONED = Failure(
    "INTERNAL", "POISONED", f"it ended {MAX_KILLED} devices' Tritons while nothing else ran there"
)
REFUSED = Failure("INTERNAL", "RESULTS_REFUSED", "its agent told of results that cannot be stored")
EXPIRED = Failure("DEADLINE_EXCEEDED", "EXPIRED", "its deadline passed before it was done")


class NotLostError(Exception):
    """The agent came back with the attempt before it was given to others."""


async def persist(
    write: Callable[[], Awaitable[T]], *, before: Callable[[], None] = lambda: None
) -> T:
    """Write, again and again while the database is away; `before` may raise to give it up.

    A write whose acknowledgement was lost is refused when it is sent again: re-read, then.
    """
    pause = 0.2
    while True:
        before()
        try:
            return await write()
        except UnavailableError as error:
            log.warning("database away, will write again", pause_seconds=pause, error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)


class Outcomes:
    """Ends attempts. Methods that take an agent's word return whether it was taken."""

    def __init__(self, store: GenerationStore, live: Live, lines: Lines) -> None:
        self._store = store
        self._live = live
        self._lines = lines

    async def succeeded(
        self,
        generation_id: str,
        token: int,
        results: Sequence[Result],
        by: Provenance,
        *,
        encode_seconds: float = 0.0,
    ) -> bool:
        """SUCCEEDED, if not by this report then by an earlier one of the same. `encode_seconds`: as
        its agent tells; 0 where it does not."""
        if self._live.holds(generation_id, token):
            self._live.journal.published(generation_id, encode_seconds)
        used = self._live.gpu_seconds(generation_id, token)
        try:
            row = await persist(
                lambda: self._store.publish(generation_id, token, results, by, used)
            )
            failpoint("complete_committed")
        except StorageRefusedError:
            await self.failed(generation_id, token, REFUSED, retryable=False)
            return False
        self._spent(row, used)
        row = row or await persist(lambda: self._store.look(generation_id))
        await self._follow(generation_id, token, row)
        keys = [result.object_key for result in results]
        taken = (
            row is not None
            and row.state is State.SUCCEEDED
            and [result.object_key for result in row.results] == keys
        )
        if not taken:
            _refused("publish", generation_id, token, row)
        return taken

    async def cancelled(self, generation_id: str, token: int) -> bool:
        """Its agent stopped it. Where no cancel was asked for, it is tried again."""
        used = self._live.gpu_seconds(generation_id, token)
        row = await persist(lambda: self._store.cancel_running(generation_id, token, used))
        self._spent(row, used)
        if row is None:
            row = await persist(lambda: self._store.look(generation_id))
            if row and row.lease_token == token:
                return await self.failed(generation_id, token, STOPPED, retryable=True)
            await self._follow(generation_id, token, row)
            _refused("cancel", generation_id, token, row)
            return False
        await self._follow(generation_id, token, row)
        return True

    async def preempted(self, generation_id: str, token: int, steps_done: int) -> bool:
        """Its agent gave its device back, as it was told; it waits again, to go on from there."""
        return await self._requeue(generation_id, token, PREEMPTED, 0.0, steps_done=steps_done)

    async def failed(
        self,
        generation_id: str,
        token: int,
        failure: Failure,
        *,
        retryable: bool,
        before: Callable[[], None] = lambda: None,
    ) -> bool:
        """Try again where that may help and attempts are left; else FAILED with the reason."""
        running = self._live.holds(generation_id, token)
        if failure.reason == KILLED and await self._times(generation_id, KILLED) + 1 >= MAX_KILLED:
            failure, retryable = POISONED, False
        attempt = await self._counted(running) if running else MAX_ATTEMPTS
        if (
            retryable
            and running
            and await self._has_attempts_left(running, attempt, failure.reason)
        ):
            delay = min(RETRY_SECONDS * 2**attempt, LONGEST_RETRY_SECONDS)
            delay = 0.0 if failure.reason in (LOST, DEVICE) else delay
            return await self._requeue(generation_id, token, failure.reason, delay, before)
        used = self._live.gpu_seconds(generation_id, token)
        row = await persist(
            lambda: self._store.fail(generation_id, token, failure, used), before=before
        )
        self._spent(row, used)
        found = row or await persist(lambda: self._store.look(generation_id))
        await self._follow(generation_id, token, found)
        if row is None:
            _refused("fail", generation_id, token, found)
        return row is not None

    async def suspected(self, row: Generation) -> bool:
        """Whether a Triton ended while it ran this: it must share no call, so that the next such
        end is nobody else's."""
        return row.attempt > 1 and await self._times(row.id, KILLED, SUSPECT) > 0

    async def _times(self, generation_id: str, *reasons: str) -> int:
        """How often it was queued again for one of these reasons."""
        return await persist(lambda: self._store.requeued_for(generation_id, reasons))

    async def _counted(self, running: Generation) -> int:
        """Its attempts, but for those that ended by preemption."""
        if running.attempt < 2:
            return running.attempt
        return running.attempt - await self._times(running.id, PREEMPTED)

    async def _has_attempts_left(self, running: Generation, attempt: int, reason: str) -> bool:
        if attempt < MAX_ATTEMPTS:
            return True
        excused = await self._times(running.id, *EXCUSED)
        excused += reason in EXCUSED
        return excused < MAX_EXCUSED and attempt - excused < MAX_ATTEMPTS

    async def lost(self, generation_id: str, token: int, failure: Failure = AGENT_LOST) -> None:
        """Its agent is gone, or came back without it. Given up if it comes back meanwhile.

        Or its device failed under it: then its agent is still there, and is told to stop it.
        """
        key, held = (generation_id, token), self._live.holds(generation_id, token)
        if key in self._live.lost or held is None:
            return

        def still_lost() -> None:
            if key not in self._live.lost:
                raise NotLostError

        self._live.lost.add(key)
        try:
            await self.failed(*key, failure, retryable=True, before=still_lost)
            came_back = key not in self._live.lost  # while the write was under way
            if came_back or failure is DEVICE_LOST:
                self._lines.cancel(held)
        except NotLostError:
            log.info("found again", generation_id=generation_id)
        finally:
            self._live.lost.discard(key)

    async def unloadable(self, generation_id: str, failure: Failure) -> None:
        """It waited for a model that fails to load, again and again."""
        row = await persist(lambda: self._store.fail(generation_id, None, failure))
        row = row or await persist(lambda: self._store.look(generation_id))
        if row and row.state.final:
            self.ended(row)

    async def expired(self, generation_id: str) -> bool:
        """Its deadline is past by our clock; True if it ended by that.

        Raises:
            UnavailableError: the database is away.
        """
        row = await self._store.expire(generation_id, EXPIRED)
        row = row or await self._store.look(generation_id)
        if row and row.state.final:
            self.ended(row)
        return row is None or row.state.final

    async def stands(self, row: Generation) -> None:
        """Bring memory to what the database was seen to say of a generation."""
        if row.state.final:
            self.ended(row)
        elif row.lease_token is None:
            self._live.accepted(row)
        elif not self._live.agrees(row.id, row.lease_token):
            # Claimed by us, and we never heard of it: nobody runs it.
            await self._requeue(row.id, row.lease_token, "ORPHANED", 0.0)

    def ended(self, row: Generation) -> None:
        """A final row was read. Whoever runs it is told to stop."""
        if self._live.watchers.is_live(row.id):
            held = self._live.running.get(row.id)
            self._live.ended(row, stopping=held is not None and self._lines.cancel(held))
            log.info("ended", **_whose(row), state=row.state, attempt=row.attempt)

    async def _requeue(
        self,
        generation_id: str,
        token: int,
        reason: str,
        delay_seconds: float,
        before: Callable[[], None] = lambda: None,
        steps_done: int = 0,
    ) -> bool:
        """Back to the queue; CANCELLED where its caller no longer wants it."""
        used = self._live.gpu_seconds(generation_id, token)
        row = await persist(
            lambda: self._store.requeue(generation_id, token, reason, used), before=before
        )
        self._spent(row, used)
        failpoint("requeue_committed")
        if row is None:
            return await self.cancelled(generation_id, token)
        log.info("requeued", **_whose(row), reason=reason, attempt=row.attempt)
        self._live.journal.left(generation_id, reason)
        self._live.watchers.heard.requeued(reason)
        if self._live.holds(generation_id, token):
            self._live.requeued(row, delay_seconds, steps_done)
        else:
            self._live.accepted(row)
        return True

    def _spent(self, row: Generation | None, gpu_seconds: float) -> None:
        """What was written counts for its tenant; a refused write counts nowhere."""
        if row is not None:
            self._live.spent(row.tenant, gpu_seconds)

    async def _follow(self, generation_id: str, token: int, row: Generation | None) -> None:
        """The attempt is over for its agent; memory follows the row."""
        held = self._live.holds(generation_id, token)
        if row is None or row.lease_token == token:
            return  # still this attempt: the event does not fit its state
        if row.state.final and held:
            self._live.ended(row)
            log.info("ended", **_whose(row), state=row.state, attempt=row.attempt)
        elif row.state is State.QUEUED and held:
            self._live.requeued(row)
        else:
            if row.state.final:
                self._live.released(generation_id)  # it was stopping
            await self.stands(row)


def _refused(event: str, generation_id: str, token: int, row: Generation | None) -> None:
    """Tell of a write about a lost attempt. (One that went through unheard, and is refused when it
    is sent again, finds its generation ended.)"""
    if row is None or event == "publish" or not row.state.final:
        state = row.state if row else "deleted"
        log.warning("lost attempt's write refused", generation_id=generation_id, token=token,
                    write=event, state=state)  # fmt: skip


def _whose(row: Generation) -> dict[str, str]:
    """By what a line of the log is found: the generation, its tenant, its trace."""
    return about(row.id, row.tenant, row.trace_parent)
