"""`atelier up`: start everything, draw a picture if asked, serve until Ctrl-C, stop everything."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from atelier.catalog import Catalog
from atelier.cli import hints, problems
from atelier.cli.fleet import drained
from atelier.cli.generate import generate
from atelier.cli.problems import ProblemError
from atelier.cli.where import Gateway, of_stack, program
from atelier.cli.wish import Wish
from atelier.config import model_repository
from atelier.embedded import processes
from atelier.embedded.part import PartError
from atelier.embedded.stack import Stack, StackOptions, build
from atelier.embedded.state import StackRecord, StateDir
from atelier.embedded.supervisor import Hooks, Supervisor, log_tail

DEFAULT_STATE_DIR = Path(".state")
STYLES = {"ready": "green", "starting": "yellow", "restarting": "red", "failed": "bold red"}


@dataclass(frozen=True)
class UpOptions:
    """What `atelier up` was asked for."""

    state_dir: Path
    stack: StackOptions
    prompt: str | None  # drawn as soon as everything is up
    once: bool  # end after the picture
    out: Path


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Somebody asked us to end."""


def up(options: UpOptions, console: Console) -> int:
    """Run a stack; the exit status."""
    return asyncio.run(_Up(options, console).run())


class _Up:
    def __init__(self, options: UpOptions, console: Console) -> None:
        self._options = options
        self._console = console
        self._state = StateDir(options.state_dir)
        self._interrupted = asyncio.Event()

    async def run(self) -> int:
        """Everything, under the folder's lock."""
        try:
            self._state.create()
            with self._state.lock():
                for name in self._state.end_strays():
                    self._console.print(f"ended {name}, left over from an earlier run")
                return await self._run(build(self._state, self._options.stack))
        except PartError as error:
            self._complain(str(error))
            return problems.FAILED

    async def _run(self, stack: Stack) -> int:
        hooks = Hooks(notice=self._notice)
        supervisor = Supervisor(stack.parts, self._state.logs, hooks)
        hooks.changed = lambda: self._state.write(_record(supervisor, stack))
        self._listen_for_signals(supervisor)
        try:
            await self._start(supervisor)
            return await self._serve(of_stack(self._state, _record(supervisor, stack)))
        except Interrupted:
            return problems.INTERRUPTED
        except PartError as error:
            self._complain(str(error), *log_tail(error).splitlines())
            return problems.FAILED
        finally:
            await self._stop(supervisor)

    async def _start(self, supervisor: Supervisor) -> None:
        began = time.monotonic()
        self._console.print(f"starting {len(supervisor.keepers)} parts in {self._state.root}")
        # Live draws again and again on a terminal, and once at its end elsewhere.
        with Live(
            get_renderable=lambda: _table(supervisor), console=self._console, refresh_per_second=8
        ):
            await self._unless_interrupted(supervisor.start())
        if not self._console.is_terminal:
            self._console.print()  # Live ends the line on terminals only
        self._console.print(f"everything is up after {time.monotonic() - began:.1f} s")

    async def _serve(self, gateway: Gateway) -> int:
        """The picture; then, unless once was all, whatever comes until Ctrl-C."""
        options = self._options
        with suppress(ProblemError):
            for line in await drained(gateway):
                self._notice(line)
        if options.prompt is not None:
            try:
                wish = Wish(options.prompt)
                await self._unless_interrupted(generate(gateway, wish, options.out, self._console))
            except ProblemError as error:
                self._complain(*error.lines)
                if options.once:
                    return error.status
        if options.once:
            return 0
        self._explain(gateway)
        await self._interrupted.wait()
        return 0

    async def _stop(self, supervisor: Supervisor) -> None:
        """Stop first, and say so where somebody can still read it."""
        began = time.monotonic()
        stopping = asyncio.create_task(supervisor.stop())
        with (
            suppress(OSError),
            self._console.status("stopping every part (Ctrl-C again: at once)"),
        ):
            await asyncio.wait({stopping})
        await stopping
        self._say(f"every part has stopped, after {time.monotonic() - began:.1f} s")

    async def _unless_interrupted(self, work: Coroutine[Any, Any, object]) -> None:
        """Do `work`, but drop it as soon as somebody asks us to end."""
        doing = asyncio.create_task(work)
        asked = asyncio.create_task(self._interrupted.wait())
        try:
            await asyncio.wait({doing, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Interrupted
            await doing
        finally:
            for task in (doing, asked):
                task.cancel()
            await asyncio.gather(doing, asked, return_exceptions=True)

    def _listen_for_signals(self, supervisor: Supervisor) -> None:
        def heard() -> None:
            supervisor.hurry = self._interrupted.is_set()
            self._interrupted.set()

        def hung_up() -> None:
            self._console.quiet = True  # writing to a terminal that is gone is an error
            heard()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, hung_up)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, heard)

    def _explain(self, gateway: Gateway) -> None:
        models = list(Catalog.read(model_repository()).cards)
        prompt = self._options.prompt or "a red circle on a blue background"
        folder = self._options.state_dir
        state_dir = None if folder.absolute() == DEFAULT_STATE_DIR.absolute() else str(folder)
        print_ = self._console.print
        print_(f"\nServing at [bold]{gateway}[/] ({', '.join(models)}). To go on:\n")
        key_file = os.path.relpath(self._state.key)
        for line in (
            hints.command(program("atelier"), state_dir, "a green ring on a white background"),
            hints.grpcurl(gateway.address, key_file, models[0], prompt),
        ):
            print_(line, soft_wrap=True, highlight=False, markup=False)
            print_()
        code = hints.python(gateway.address, key_file, models[0], prompt)
        print_(f"{program(Path(sys.executable).name)} - <<'END'", markup=False, highlight=False)
        print_(Syntax(code, "python", background_color="default"))
        print_("END")
        said = f"Calls show the API key in {key_file}; the atelier commands find it there."
        print_(f"\n{said}", highlight=False, markup=False, soft_wrap=True)
        print_("\nCtrl-C stops everything; what was made stays.")

    def _notice(self, line: str) -> None:
        self._say(f"[yellow]{escape(line)}[/]")

    def _complain(self, first: str, *more: str) -> None:
        self._say(f"[bold red]{escape(first)}[/]")
        for line in more:
            self._say(f"  {escape(line)}")

    def _say(self, line: str) -> None:
        """A line, if anybody can still read it."""
        with suppress(OSError):
            self._console.print(line, soft_wrap=True, highlight=False)


def _record(supervisor: Supervisor, stack: Stack) -> StackRecord:
    pid = os.getpid()
    parts = tuple(keeper.record() for keeper in supervisor.keepers.values())
    return StackRecord(pid, processes.start_ticks(pid), stack.gateway, stack.devices, parts)


def _table(supervisor: Supervisor) -> Table:
    table = Table("part", "state", "address", "seconds", box=None, pad_edge=False)
    for keeper in supervisor.keepers.values():
        style = STYLES.get(keeper.state, "dim")
        seconds = f"{keeper.seconds:.1f}" if keeper.seconds else ""
        table.add_row(keeper.part.name, f"[{style}]{keeper.state}[/]", keeper.part.address, seconds)
    return table
