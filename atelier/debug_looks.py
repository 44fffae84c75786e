"""What a process finds when it looks at itself: stacks, tasks, memory. As text; places and counts
only, no values."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from types import FrameType

LOOP_SECONDS = 2.0  # for which the loop may be silent before it counts as stuck
MOST_TASKS, MOST_LINES = 200, 25
FRAMES_TRACED = 1


def stacks() -> str:
    """Every thread's, the latest call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = [f"process {os.getpid()}: {len(names)} threads", *_status()]
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines += ["", f"thread {names.get(ident, ident)}", *_stack(frame)]
    return "\n".join(lines) + "\n"


def tasks(loop: asyncio.AbstractEventLoop) -> str:
    """Every asyncio task's, where it waits; seen by the loop itself, or from beside it where it
    does not come round to that."""
    seen: Future[str] = Future()

    def look() -> None:
        if not seen.set_running_or_notify_cancel():
            return
        try:
            seen.set_result(_tasks(loop))
        except Exception as error:
            seen.set_exception(error)

    try:
        loop.call_soon_threadsafe(look)
        return seen.result(LOOP_SECONDS)
    except TimeoutError:
        seen.cancel()
        stuck = f"THE LOOP IS BUSY: it did not answer within {LOOP_SECONDS:g} s, see MainThread\n"
        return stuck + _tasks(loop)
    except RuntimeError:
        return "the loop is closed: the process ends\n"


def memory(seconds: float) -> str:
    """What is allocated within so many seconds and not freed, by place; and what there is, by kind.
    What takes the place of something older (a ring's latest) seems to grow: what was there before
    is not traced. Tracing costs each allocation about as much again, and counting stops everything
    for as long as it takes (some 50 ms a million objects)."""
    lines = [f"process {os.getpid()}", *_status(), ""]
    if seconds:
        lines += _allocated(seconds)
    began = time.perf_counter()
    kinds = Counter(type(one).__qualname__ for one in gc.get_objects())
    took = time.perf_counter() - began
    aside = gc.get_freeze_count()  # pauses.py does that, and the gateway as it starts
    lines.append(
        f"objects that the collector knows: {kinds.total()} (counted in {took:.2f} s),"
        f" beside {aside} that were set aside (gc.freeze), of which no kinds are told"
    )
    lines += [f"{count:10d}  {kind}" for kind, count in kinds.most_common(MOST_LINES)]
    return "\n".join(lines) + "\n"


def _tasks(loop: asyncio.AbstractEventLoop) -> str:
    found = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    alike: dict[tuple[str, ...], list[str]] = {}
    for task in found:
        place = [line for frame in task.get_stack() for line in _stack(frame, limit=1)]
        alike.setdefault(tuple(place), []).append(task.get_name())
    lines = [f"{len(found)} asyncio tasks, in {len(alike)} places"]
    for stack, names in sorted(alike.items(), key=lambda one: -len(one[1]))[:MOST_TASKS]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines += ["", f"{len(names)} x {', '.join(names[:3])}{more}", *(stack or ["  (it ends)"])]
    return "\n".join(lines) + "\n"


def _allocated(seconds: float) -> Iterable[str]:
    """By place, the most first."""
    mine = not tracemalloc.is_tracing()  # PYTHONTRACEMALLOC may have begun before
    if mine:
        tracemalloc.start(FRAMES_TRACED)
    before = tracemalloc.take_snapshot()
    time.sleep(seconds)
    after = tracemalloc.take_snapshot()
    if mine:
        tracemalloc.stop()
    noise = [tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__)]
    grown = after.filter_traces(noise).compare_to(before.filter_traces(noise), "lineno")
    yield f"allocated within {seconds:g} s and still there, by place"
    for one in grown[:MOST_LINES]:
        frame = one.traceback[0]
        kibibytes, place = one.size_diff / 2**10, f"{frame.filename}:{frame.lineno}"
        yield f"{kibibytes:+10.1f} KiB  {one.count_diff:+7d}  {place}"
    yield ""


def _stack(frame: FrameType, limit: int | None = None) -> list[str]:
    summary = traceback.extract_stack(frame, limit)
    return [line.rstrip() for line in traceback.format_list(summary)]


def _status() -> list[str]:
    """What the kernel counts."""
    wanted = ("VmRSS", "RssAnon", "Threads")
    try:
        text = Path("/proc/self/status").read_text()
        descriptors = len(os.listdir("/proc/self/fd"))
    except OSError:
        return []
    found = [" ".join(line.split()) for line in text.splitlines() if line.startswith(wanted)]
    return [*found, f"descriptors: {descriptors}"]
