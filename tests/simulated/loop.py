"""An event loop of virtual time, in which several processes live that can be frozen and killed.

asyncio's own loop over a selector that waits for nothing: where it would sleep, the clock leaps.
Whatever runs belongs to the process in whose context it was begun. What a frozen process should
run is kept until it thaws; what a dead one should run never runs. So a process can die or stand
still between any two steps of any of its tasks, as a real one can.

The same seed gives the same run: no sockets, threads or real time, and the order in which sets of
tasks, futures and events are walked is that of their making, not of their addresses. The order of
sets of strings hangs on PYTHONHASHSEED, which `python -m tests.simulated` therefore sets.

Libraries that do this (simloop, simloom) want Python 3.12; we serve 3.11.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class StuckError(Exception):
    """Nothing is scheduled any more, and somebody still waits."""


class Process:
    """What can be frozen, thawed and killed. `world`: what it lives in, for the fakes that it
    meets; `parts`: what the checks look into."""

    def __init__(self, loop: VirtualLoop, name: str, world: Any) -> None:
        self.name = name
        self.world = world
        self.alive = True
        self.frozen = False
        self.thawed_at = 0.0
        self.buried = False
        self.steps_left: int | None = None  # dies when so many more were run
        self.wall_offset = 0.0  # seconds that its clock is wrong
        self.parts: dict[str, Any] = {}
        self.on_death: Callable[[], None] = lambda: None
        self._held: list[asyncio.Handle] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._loop = loop

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it as a task of this process."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, self)
        return self._loop.create_task(work, context=context)

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen, self.thawed_at = False, self._loop.now
        self._loop.again(self._held)
        self._held = []

    def kill(self) -> None:
        if self.alive:
            self.alive, self.frozen = False, False
            self.on_death()

    def may_run(self, handle: asyncio.Handle) -> bool:
        """Whether a callback of this process may run now."""
        if self.buried:
            return True
        if self.steps_left is not None and not self.frozen:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.steps_left = None
                self.kill()
        if self.alive and not self.frozen:
            return True
        self._held.append(handle)  # until it thaws, or is buried
        return False

    def owns(self, task: asyncio.Task[Any]) -> None:
        if len(self._tasks) % 256 == 255:
            self._tasks = [t for t in self._tasks if not t.done()]
        self._tasks.append(task)

    def bury(self) -> list[asyncio.Task[Any]]:
        """Let its tasks end, in a world where nothing answers any more; those left."""
        self.buried, self.frozen = True, False
        self.thaw()
        left = [task for task in self._tasks if not task.done()]
        for task in left:
            task.cancel()
        return left


class _OfAProcess(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(PROCESS)
        if process is None or process.may_run(self):
            super()._run()


class _Soon(_OfAProcess):
    __slots__ = ()


class _Later(_OfAProcess, asyncio.TimerHandle):
    __slots__ = ()


_NUMBERS = itertools.count()


class _Task(asyncio.Task):  # type: ignore[type-arg]
    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.number = next(_NUMBERS)
        super().__init__(*arguments, **named)

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future):  # type: ignore[type-arg]
    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.number = next(_NUMBERS)
        super().__init__(*arguments, **named)

    def __hash__(self) -> int:
        return self.number


class _Leap:
    """In the place of a selector: no time passes but the loop's."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise StuckError
        self._loop.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`now`: seconds since it began."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self._selector = _Leap(self)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def again(self, handles: list[asyncio.Handle]) -> None:
        """Run these after all, as soon as what is ready."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        task = _Task(coro, loop=self, name=name, context=context)
        process = context.get(PROCESS) if context else PROCESS.get()
        if process:
            process.owns(task)
        return task

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        timer = _Later(when, callback, args, self, context)
        # As BaseEventLoop.call_at does: its heap, its flag.
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True
        return timer

    def _call_soon(self, callback: Any, args: Any, context: Any) -> asyncio.Handle:
        handle = _Soon(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """At once: there are no threads here."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def apart(loop: VirtualLoop, seconds: float, do: Callable[[], Any]) -> None:
    """Do it after so long, whatever becomes of the process that asks for it."""
    context = contextvars.copy_context()
    context.run(PROCESS.set, None)
    loop.call_later(max(0.0, seconds), do, context=context)
