"""The faults but for those at failpoints (points.py), and the order of all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from atelier.embedded.processes import family
from tests.faults.disks import GIGABYTES
from tests.faults.fault import FROZEN_SECONDS, Fault, NotReachedError
from tests.faults.points import ENDS, REACH_SECONDS, STOPS, UNSURE
from tests.faults.proxy import COMMITTED, STORED
from tests.faults.stack import SCHEDULERS, Stack, thaw
from tests.faults.zombies import zombie

LINE_SECONDS = (2.0, 6.0)
FULL_SECONDS = (4.0, 7.0)
NOTICED_SECONDS = 20.0  # for somebody to find that a disk is full

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
        stack.kill(named(stack, what))

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


def full(what: str) -> Fault:
    """A disk is full for some seconds, and the server that lives there has found out. Where it is
    the state folder's, nobody can log, and a part that is killed starts there."""

    async def hurt(stack: Stack, rng: Random) -> None:
        disk = stack.disks.get(what)
        if disk is None:
            raise NotReachedError("no disk of its own: that takes root")
        told = stack.told_full(what) if what != "state" else 0
        try:
            await asyncio.to_thread(disk.fill)
            if what == "state":
                stack.kill("gateway")
            else:
                await _noticed(stack, what, told)
            await asyncio.sleep(rng.uniform(*FULL_SECONDS))
        finally:
            await asyncio.to_thread(disk.free)

    return Fault("disk full", what, hurt)


async def _noticed(stack: Stack, what: str, told: int) -> None:
    async with asyncio.timeout(NOTICED_SECONDS):
        while stack.told_full(what) == told:  # noqa: ASYNC110 - it tells its log only
            await asyncio.sleep(0.1)


KILLS = [kill(part) for part in PARTS]
FREEZES = [freeze(part) for part in PARTS]
DISKS = [full(what) for what in GIGABYTES]
LINES = [line(w, how) for w in ("postgres", "s3") for how in ("frozen", "late", "reset")]
COMMITS = [unheard("postgres"), unheard("s3"), killed_in_commit(True), killed_in_commit(False)]
TURNS = list(zip(KILLS, FREEZES, strict=True)) + list(zip(ENDS, STOPS, strict=True))


# Where libfaketime is (Debian's package of that name); without it there are no such faults.
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
_MOVED = ("gateway", "leader", "agent") if FAKETIME else ()
CLOCKS = [clock(part, seconds) for part in _MOVED for seconds in (3_600, -3_600)]
FAILPOINTS = [*ENDS, *STOPS, *UNSURE]
SHORT = [*KILLS, *FREEZES, *LINES, *COMMITS]
ALL = [*SHORT, *CLOCKS, *DISKS, zombie(), *FAILPOINTS]
FEW = [kill("leader"), freeze("agent"), unheard("postgres"), line("s3", "reset")]


def schedule(rng: Random, faults: list[Fault]) -> list[Fault]:
    """Each once, in an order of the seed's, but that who is killed is frozen next, and the other
    way round: wherever a run ends, it froze as often as it killed."""
    pairs = [rng.sample(pair, 2) for pair in TURNS if set(pair) <= set(faults)]
    paired = {fault for pair in pairs for fault in pair}
    groups = pairs + [[fault] for fault in faults if fault not in paired]
    return [fault for group in rng.sample(groups, len(groups)) for fault in group]
