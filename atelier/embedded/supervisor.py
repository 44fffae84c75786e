"""Starts every part in order, starts again what dies, stops all in reverse.

One `Keeper` a part, one asyncio task each. A part starts when all that it needs has answered, so
what does not depend on each other starts side by side; it stops when nobody needs it any more.

    waiting -> starting -> ready -> stopping -> stopped
                  |          | died
                  v          v
               failed    restarting -> ready        (same address; back-off in between)

A part that fails before everything was up once stops the whole: somebody is watching, and the
reason is most likely one that no second try mends. Later it is started again without end, for then
the others still serve.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from atelier.embedded import launch, processes
from atelier.embedded.logs import open_log, tail, turn_over
from atelier.embedded.part import NotReadyError, Part, PartError
from atelier.embedded.state import PartRecord

PROBE_PAUSE_SECONDS = 0.1
LOG_LOOK_SECONDS = 30.0  # between two looks at how large the logs are

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0
FORGIVING_SECONDS = 2.0  # of health make up for one failure


class StartError(PartError):
    """A part did not come up; `log` is where it told why, if it did."""

    def __init__(self, part: str, reason: str, log: Path) -> None:
        super().__init__(f"{part} did not start: {reason}")
        self.log = log


@dataclass
class Hooks:
    """Who hears of what happens. Called on the event loop; must not block.

    Should they raise (a full disk, a terminal that is gone), nobody hears, and the parts are kept
    all the same.
    """

    changed: Callable[[], None] = lambda: None  # some part's record is another now
    notice: Callable[[str], None] = lambda line: None  # a line that a person should see


@dataclass
class Backoff:
    """0.5 s, doubling to 30 s with each failure. Who keeps failing has most of the machine spared;
    who works in between is soon back: health makes up for failures."""

    failures: int = 0

    def after(self, ran_seconds: float) -> float:
        """Seconds to wait after a run that lasted `ran_seconds`."""
        self.failures = max(0, self.failures - int(ran_seconds / FORGIVING_SECONDS))
        delay = min(FIRST_SECONDS * 2.0**self.failures, LONGEST_SECONDS)
        if delay < LONGEST_SECONDS:
            self.failures += 1
        return delay


class Keeper:
    """Keeps one part."""

    def __init__(self, part: Part, log: Path, hooks: Hooks) -> None:
        self.part = part
        self.log = log
        self.state = "waiting"
        self.restarts = 0
        self.seconds = 0.0  # of its latest start
        self.answered = asyncio.Event()
        self._hooks = hooks
        self._backoff = Backoff()
        self._process: asyncio.subprocess.Process | None = None
        self._started: int | None = None
        self._task: asyncio.Task[None] | None = None

    def record(self) -> PartRecord:
        pid = self._process.pid if self._process and self._process.returncode is None else None
        return PartRecord(
            self.part.name, pid, self._started, self.part.address, str(self.log),
            self.state, self.restarts,
        )  # fmt: skip

    async def start(self) -> None:
        """Start it for the first time, and keep it from then on.

        Raises:
            PartError: it does not come up.
        """
        try:
            await self._start_once()
        except PartError:
            self._to("failed")
            raise
        self.answered.set()
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.part.name}")

    async def stop(self, *, at_once: Callable[[], bool] = lambda: False) -> None:
        """Ask it to end, kill it when it does not in time (or `at_once` says so)."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process and self._process.returncode is None:
            self._to("stopping")
            with suppress(ProcessLookupError):
                self._process.send_signal(self.part.stop_signal)
            await self._until_ended(at_once)
        if self._process:
            processes.end_group(self._process.pid)
        if self.state != "failed":
            self._to("stopped")

    async def _keep(self) -> None:
        """Start it again each time it ends."""
        assert self._process is not None
        while True:
            began = time.monotonic()
            status = await self._process.wait()
            processes.end_group(self._process.pid)
            delay = self._backoff.after(time.monotonic() - began)
            self._to("restarting")
            self._say(
                f"{self.part.name} ended ({processes.describe_exit(status)});"
                f" it starts again in {delay:g} s. Its log: {self.log}"
            )
            await asyncio.sleep(delay)
            self.restarts += 1
            try:
                await self._start_once()
            except PartError as error:
                self._say(str(error))
                await self._kill()
            else:
                self._say(f"{self.part.name} is back after {self.seconds:.1f} s")

    async def _start_once(self) -> None:
        """Prepare it, start its process, wait until it answers."""
        self._to("starting" if not self.restarts else "restarting")
        began = time.monotonic()
        try:
            await asyncio.to_thread(self.part.prepare)
            await self._spawn()
        except OSError as error:  # a full disk, no more processes: it may pass
            raise StartError(self.part.name, str(error), self.log) from error
        await self._until_ready(began + self.part.start_seconds)
        self.seconds = time.monotonic() - began
        self._to("ready")

    async def _spawn(self) -> None:
        command = self.part.command()
        identity = f"{command.run_as.uid}:{command.run_as.gid}" if command.run_as else "-"
        launcher = (
            sys.executable, "-I", "-S", launch.__file__, str(os.getpid()),
            str(int(self.part.orphan_signal)), identity,
        )  # fmt: skip
        with open_log(self.log, f"start of {self.part.name}", datetime.now().astimezone()) as log:
            self._process = await asyncio.create_subprocess_exec(
                *launcher,
                *command.argv,
                cwd=command.cwd,
                env=dict(command.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for us alone
            )
        self._started = processes.start_ticks(self._process.pid)
        if self.part.pid_file:
            self.part.pid_file.write_text(f"{self._process.pid} {self._started}\n")
        self._changed()

    async def _until_ready(self, deadline: float) -> None:
        assert self._process is not None
        reason = "it was not asked yet"
        while time.monotonic() < deadline:
            if self._process.returncode is not None:
                status = processes.describe_exit(self._process.returncode)
                raise StartError(self.part.name, f"its process ended ({status})", self.log)
            try:
                await asyncio.to_thread(self.part.probe)
            except NotReadyError as error:
                reason = str(error)
                await asyncio.sleep(PROBE_PAUSE_SECONDS)
            else:
                return
        waited = f"not ready after {self.part.start_seconds:g} s: {reason}"
        raise StartError(self.part.name, waited, self.log)

    async def _until_ended(self, at_once: Callable[[], bool]) -> None:
        assert self._process is not None
        ended = asyncio.ensure_future(self._process.wait())
        deadline = time.monotonic() + self.part.stop_seconds
        while not ended.done() and time.monotonic() < deadline and not at_once():
            await asyncio.wait({ended}, timeout=0.1)
        if not ended.done():
            await self._kill()
        await ended

    async def _kill(self) -> None:
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    def _to(self, state: str) -> None:
        self.state = state
        self._changed()

    def _changed(self) -> None:
        with suppress(Exception):
            self._hooks.changed()

    def _say(self, line: str) -> None:
        with suppress(Exception):
            self._hooks.notice(line)


class Supervisor:
    """Keeps all parts of a stack."""

    def __init__(self, parts: Sequence[Part], logs: Path, hooks: Hooks) -> None:
        self.keepers = {part.name: Keeper(part, logs / f"{part.name}.log", hooks) for part in parts}
        self.hurry = False  # set by a second Ctrl-C: kill what is being waited for
        self._turning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start everything, each part as soon as what it needs has answered.

        Raises:
            PartError: one did not come up; the others are left for `stop`.
        """
        self._turning = asyncio.create_task(self._turn_logs_over())
        starts = [asyncio.create_task(self._start(keeper)) for keeper in self.keepers.values()]
        try:
            await asyncio.gather(*starts)
        finally:
            for task in starts:
                task.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def stop(self) -> None:
        """Stop everything, each part as soon as nobody needs it any more."""
        if self._turning:
            self._turning.cancel()
        stopped = {name: asyncio.Event() for name in self.keepers}

        async def stop(keeper: Keeper) -> None:
            for other in self.keepers.values():
                if keeper.part.name in other.part.needs:
                    await stopped[other.part.name].wait()
            try:
                await keeper.stop(at_once=lambda: self.hurry)
            finally:
                stopped[keeper.part.name].set()

        await asyncio.gather(*(stop(keeper) for keeper in self.keepers.values()))

    async def _start(self, keeper: Keeper) -> None:
        for name in keeper.part.needs:
            await self.keepers[name].answered.wait()
        await keeper.start()

    async def _turn_logs_over(self) -> None:
        while True:
            await asyncio.sleep(LOG_LOOK_SECONDS)
            for keeper in self.keepers.values():
                with suppress(OSError):
                    await asyncio.to_thread(turn_over, keeper.log)


def log_tail(error: PartError) -> str:
    """What the part that did not start said last; empty where it said nothing."""
    return tail(error.log) if isinstance(error, StartError) else ""
