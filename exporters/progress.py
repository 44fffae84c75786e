"""What an export shows while it works: a bar for each stage, and a line when it is through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Bar:
    """One stage's bar."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None)
        self.note = ""

    def total(self, amount: float) -> None:
        """How much there is to do, in any unit; without it the bar only pulses."""
        self._progress.update(self._task, total=amount)

    def advance(self, amount: float = 1) -> None:
        self._progress.advance(self._task, amount)

    def at(self, share: float, what: str = "") -> None:
        """The part that is done, 0 to 1, and what is being done."""
        self._progress.update(self._task, total=1.0, completed=share, note=what)

    def close(self) -> None:
        self._progress.remove_task(self._task)


class Show:
    """The stages on a console: bars where it is a terminal, lines everywhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    @contextmanager
    def stage(self, title: str) -> Iterator[Bar]:
        """A stage under way; its line is written when it ends well."""
        bar = Bar(self._progress, title)
        self._progress.start()
        try:
            yield bar
        finally:
            bar.close()
            self._progress.stop()
        self.say(f"[green]✓[/] {title}{f': {bar.note}' if bar.note else ''}")

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
