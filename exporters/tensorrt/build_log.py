"""The library's words: errors that name the ONNX node, and how far a build is.

Both libraries take objects of their own classes for this, so the classes here are made from the
module at hand.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from exporters.tensorrt.api import Module, OnnxParser
from exporters.tensorrt.record import EngineError

Progress = Callable[[float, str], object]
"""Takes how much is done, 0 to 1, and the name of the phase."""

MAX_LINES = 5  # of the library's own words in an error; the first is the cause
_NO_DRIVER = "cudaError 35"  # follows every other error where there is no driver


class BuildLog:
    """Keeps the errors that a library logs. `logger` is what the library wants."""

    def __init__(self, module: Module) -> None:
        self.errors: list[str] = []
        severity = module.ILogger.Severity
        grave = (severity.ERROR, severity.INTERNAL_ERROR)
        errors = self.errors

        class Logger(module.ILogger):  # type: ignore[name-defined]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                if severity in grave:
                    errors.append(message.strip())

        self.logger = Logger()

    @property
    def only_driver_missing(self) -> bool:
        """Whether nothing is wrong but that there is no driver."""
        return bool(self.errors) and all(_NO_DRIVER in line for line in self.errors)

    def failure(self, doing: str, nodes: Collection[str]) -> EngineError:
        """The error that these words amount to.

        Args:
            doing: what failed, such as `building unet.onnx`.
            nodes: the graph's node names, to recognise in what was said.
        """
        said = [line for line in self.errors if _NO_DRIVER not in line] or self.errors
        named = tuple(_named(said, nodes))
        at = f" at ONNX node {', '.join(named)}" if named else ""
        words = "; ".join(said[:MAX_LINES]) or "the library gave no reason"
        return EngineError(f"{doing} failed{at}: {words}", named)


def parse_error(doing: str, parser: OnnxParser) -> EngineError:
    """The error that a parser's own list amounts to."""
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    nodes = tuple(dict.fromkeys(error.node_name() for error in errors if error.node_name()))
    words = [
        f"node {error.node_name() or '(unnamed)'} ({error.node_operator() or 'the model'}):"
        f" {_plain(error.desc())}"
        for error in errors[:MAX_LINES]
    ]
    return EngineError(f"{doing} failed: {'; '.join(words) or 'no reason given'}", nodes)


def _plain(text: str) -> str:
    """One line of it, without what every error ends with where there is no driver."""
    lines = (line.strip() for line in text.splitlines())
    return "; ".join(line for line in lines if line and _NO_DRIVER not in line)


def _named(lines: Iterable[str], nodes: Collection[str]) -> list[str]:
    """The nodes whose names occur in the lines as whole words, in the order in which they occur."""
    known = set(nodes)
    words = (word for line in lines for word in re.findall(r"[\w./:-]+", line))
    return list(dict.fromkeys(word.rstrip(".:") for word in words if word.rstrip(".:") in known))


class BuildProgress:
    """Nested phases of a build, told as one number. `monitor` is what the library wants.

    A phase has a number of steps, and a phase within it is a part of its current step.
    """

    def __init__(self, module: Module, tell: Progress) -> None:
        self._tell = tell
        self._phases: dict[str, list[int]] = {}  # name -> [steps done, steps], outermost first
        self._told = 0.0
        self._raised: BaseException | None = None  # by `tell`
        self._interrupted = False
        phases = self

        class Monitor(module.IProgressMonitor):  # type: ignore[name-defined]
            def __init__(self) -> None:
                super().__init__()

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                phases.start(name, steps)

            def step_complete(self, name: str, step: int) -> bool:
                return phases.step(name, step)

            def phase_finish(self, name: str) -> None:
                phases.finish(name)

        self.monitor = Monitor()

    @contextmanager
    def holding_interrupts(self) -> Iterator[None]:
        """Ctrl-C stops the build at its next step, and is heard when the library has returned.

        The libraries swallow whatever is raised while they call back, so an interrupt would be lost
        in them. What `tell` raises is held likewise.
        """
        heard = signal.getsignal(signal.SIGINT)
        ours = threading.current_thread() is threading.main_thread() and callable(heard)
        if ours:
            signal.signal(signal.SIGINT, self._hold)
        try:
            yield
        except Exception:
            if not self._stopping:  # else it is the library's word for being stopped
                raise
        finally:
            if ours:
                signal.signal(signal.SIGINT, heard)
        if self._raised is not None:
            raise self._raised
        if self._interrupted and callable(heard):
            heard(signal.SIGINT, None)

    def _hold(self, number: int, frame: object) -> None:
        self._interrupted = True

    @property
    def _stopping(self) -> bool:
        return self._interrupted or self._raised is not None

    def start(self, name: str, steps: int) -> None:
        self._phases[name] = [0, max(1, steps)]

    def step(self, name: str, step: int) -> bool:
        """Returns whether to go on; an exception is held, see holding_interrupts."""
        try:
            if name in self._phases:
                self._phases[name][0] = step + 1
            self._told = max(self._told, self._done())
            self._tell(self._told, name)
        except BaseException as error:
            self._raised = error
        return not self._stopping

    def finish(self, name: str) -> None:
        self._phases.pop(name, None)

    def _done(self) -> float:
        done, part = 0.0, 1.0
        for steps_done, steps in self._phases.values():
            part /= steps
            done += part * min(steps_done, steps)
        return min(done, 1.0)
