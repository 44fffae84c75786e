"""The faults, each a way to hurt the running stack for a while and then let go.

A fault returns when it is over: processes thawed, lines whole, and what was killed left to the
supervisor. Whether all is well again is for the run to find out, by a generation that is made.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from atelier.embedded.processes import family, is_stopped
from atelier.failpoints import POINTS
from tests.faults.proxy import COMMITTED, STORED
from tests.faults.stack import SCHEDULERS, Stack, thaw

FROZEN_SECONDS = (3.5, 7.0)  # the leader's lease is 3 s
LINE_SECONDS = (2.0, 6.0)
UNSURE_SECONDS = 15.0
REACH_SECONDS = 20.0  # for a failpoint to be passed
Hurt = Callable[[Stack, Random], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One of a kind (kill, freeze, line, commit, clock, failpoint ...), and what is hurt."""

    kind: str
    what: str
    hurt: Hurt

    @property
    def name(self) -> str:
        return f"{self.kind} {self.what}"


class NotReachedError(Exception):
    """Nobody came by the failpoint: the run shows nothing of it."""


PARTS = ("gateway", "leader", "stand-by", "agent", "triton-0", "postgres", "s3", "webhooks")


def named(stack: Stack, what: str) -> str:
    """The part that is meant: who leads is found out."""
    if what not in ("leader", "stand-by"):
        return what
    leader = stack.leader()
    [other] = [name for name in SCHEDULERS if name != leader]
    return leader if what == "leader" else other


def kill(what: str) -> Fault:
    """SIGKILL, and the supervisor starts it again."""

    async def hurt(stack: Stack, _rng: Random) -> None:
        name = named(stack, what)
        before = stack.pid(name)
        stack.kill(name)
        await stack.restarted(name, before)

    return Fault("kill", what, hurt)


def freeze(what: str) -> Fault:
    """SIGSTOP to all its processes, longer than the leader's lease; then SIGCONT."""

    async def hurt(stack: Stack, rng: Random) -> None:
        stopped = stack.freeze(named(stack, what))
        try:
            await asyncio.sleep(rng.uniform(*FROZEN_SECONDS))
        finally:
            thaw(stopped)

    return Fault("freeze", what, hurt)


def line(what: str, how: str) -> Fault:
    """The line to the database or the store is frozen, late, or reset again and again."""

    async def hurt(stack: Stack, rng: Random) -> None:
        proxy = stack.database if what == "postgres" else stack.store
        seconds = rng.uniform(*LINE_SECONDS)
        try:
            match how:
                case "frozen":
                    proxy.freeze()
                    await asyncio.sleep(seconds)
                case "late":
                    proxy.delay_seconds = 0.3
                    await asyncio.sleep(seconds)
                case _:
                    for _ in range(4):
                        proxy.reset()
                        await asyncio.sleep(rng.uniform(0.1, 0.5))
        finally:
            proxy.heal()

    return Fault("line", f"{what} {how}", hurt)


def unheard(what: str) -> Fault:
    """It was done, and the answer is cut off: acknowledgements of commits, or of stored objects."""

    async def hurt(stack: Stack, rng: Random) -> None:
        proxy = stack.database if what == "postgres" else stack.store
        cut = proxy.cut(COMMITTED if what == "postgres" else STORED, rng.randint(1, 6))
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await cut.wait()
            await asyncio.sleep(1.0)
        finally:
            proxy.heal()

    return Fault("answer lost", what, hurt)


def killed_in_commit(whole: bool) -> Fault:
    """PostgreSQL is killed between a commit and its acknowledgement: all of it, or one backend,
    upon which it ends all others and recovers."""

    async def hurt(stack: Stack, _rng: Random) -> None:
        before = stack.pid("postgres")
        assert before

        def die() -> None:
            backends = family(before)[1:]
            for pid in [before] if whole or not backends else backends[-1:]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        cut = stack.database.cut(COMMITTED, 1, die)
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await cut.wait()
        finally:
            stack.database.heal()
        if whole:
            await stack.restarted("postgres", before)

    return Fault("commit", "postgres" if whole else "a backend", hurt)


def clock(what: str, seconds: int) -> Fault:
    """The wall clock of one process is off (the monotonic one is not); of the leader's, too, for
    the other is frozen meanwhile."""

    async def hurt(stack: Stack, rng: Random) -> None:
        name = named(stack, "stand-by" if what == "leader" else what)
        moved = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME": f"{seconds:+d}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        await _renew(stack, name, moved)
        if what == "leader":
            await asyncio.sleep(2.0)  # it stands by
            await freeze("leader").hurt(stack, rng)
        await asyncio.sleep(rng.uniform(*FROZEN_SECONDS))
        await _renew(stack, name, {})

    return Fault("clock", f"{what} {seconds:+d} s", hurt)


async def _renew(stack: Stack, name: str, more: Mapping[str, str]) -> None:
    before = stack.pid(name)
    stack.wear(name, more)
    stack.kill(name)
    await stack.restarted(name, before)


# Who comes by, and what else must be killed for it to (a model is loaded where Triton is new).
_COMERS = {
    "submit_before_commit": SCHEDULERS, "submit_committed": SCHEDULERS,
    "claim_committed": SCHEDULERS, "complete_committed": SCHEDULERS,
    "requeue_committed": SCHEDULERS, "leader_elected": SCHEDULERS, "lease_renewed": SCHEDULERS,
    "before_triton_call": ("agent",), "step_done": ("agent",), "model_load_called": ("agent",),
    "model_unload_called": ("agent",), "before_upload": ("agent",),
    "upload_done_before_complete": ("agent",), "create_before_answer": ("gateway",),
}  # fmt: skip
_BESIDE = {
    "model_load_called": ("triton-0", "triton-1"),
    "requeue_committed": ("triton-0", "triton-1"),
}
_ONCE = ("leader_elected", "model_load_called", "model_unload_called", "requeue_committed")
PLACES = tuple(_COMERS)
# Those only raise; who ends between a POST and its note is in test_webhook_workers.
_ELSEWHERE = {"statement_done", "put_done", "webhook_sent_before_mark"}
assert set(PLACES) == set(POINTS) - _ELSEWHERE


def at(point: str, what: str) -> Fault:
    """A process ends (exit), or stands for longer than the lease (stop), at a failpoint.

    Raises, when it is carried out: NotReachedError.
    """

    async def hurt(stack: Stack, rng: Random) -> None:
        nth = 1 if point in _ONCE else rng.randint(2, 12)
        comers = _COMERS[point]
        await _restart(stack, comers, f"{point}={what}@{nth}")
        armed = {name: stack.pid(name) for name in comers}
        for name in _BESIDE.get(point, ()):
            stack.kill(name)
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await _reached(stack, armed, what)
        except TimeoutError as error:
            await _restart(stack, comers, "")  # a later fault must not meet it
            raise NotReachedError(f"{point} was not reached in {REACH_SECONDS:g} s") from error

    return Fault(f"failpoint {what}", point, hurt)


async def _restart(stack: Stack, comers: tuple[str, ...], failpoints: str) -> None:
    """With these armed; those that come after them are as ever."""
    before = {name: stack.pid(name) for name in comers}
    for name in comers:
        stack.arm(name, failpoints)
        stack.kill(name)
    for name in comers:
        await stack.restarted(name, before[name])
        stack.arm(name, "")


async def _reached(stack: Stack, armed: dict[str, int | None], what: str) -> None:
    while True:
        for name, pid in armed.items():
            if what == "exit" and stack.pid(name) != pid:
                return
            if what == "stop" and pid and is_stopped(pid):
                await asyncio.sleep(FROZEN_SECONDS[0])
                thaw([pid])
                return
        await asyncio.sleep(0.02)


KILLS = [kill(part) for part in PARTS]
FREEZES = [freeze(part) for part in PARTS]
LINES = [line(w, how) for w in ("postgres", "s3") for how in ("frozen", "late", "reset")]
COMMITS = [unheard("postgres"), unheard("s3"), killed_in_commit(True), killed_in_commit(False)]
FAILPOINTS = [at(point, what) for point in PLACES for what in ("exit", "stop")]


def told_it_failed(percent: float) -> Fault:
    """Statements and stored objects succeed, and so many of them are told to have failed."""

    async def hurt(stack: Stack, rng: Random) -> None:
        armed = f"statement_done={percent:g}%raise;put_done={percent:g}%raise;seed={rng.random()}"
        await _restart(stack, (*SCHEDULERS, "agent"), armed)
        await asyncio.sleep(UNSURE_SECONDS)
        await _restart(stack, (*SCHEDULERS, "agent"), "")

    return Fault("told it failed", f"{percent:g} %", hurt)


# Where libfaketime is (Debian's package of that name); without it there are no such faults.
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
_MOVED = ("gateway", "leader", "agent") if FAKETIME else ()
CLOCKS = [clock(part, seconds) for part in _MOVED for seconds in (3_600, -3_600)]
UNSURE = [told_it_failed(1), told_it_failed(5)]
ALL = [*KILLS, *FREEZES, *LINES, *COMMITS, *CLOCKS, *UNSURE, *FAILPOINTS]
FEW = [kill("leader"), freeze("agent"), unheard("postgres"), line("s3", "reset")]


def schedule(rng: Random, faults: list[Fault]) -> list[Fault]:
    """Each once, in an order of the seed's."""
    return rng.sample(faults, len(faults))
