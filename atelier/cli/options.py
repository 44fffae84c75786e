"""What several commands have in common: options, and how they ask a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from atelier.cli.problems import INTERRUPTED, ProblemError
from atelier.cli.where import Gateway, gateway_of

PIPE_COLUMNS = 240

StateDirOption = Annotated[
    Path, typer.Option("--state-dir", envvar="ATELIER_STATE_DIR", help="Where a stack keeps all.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", envvar="ATELIER_ADDRESS", help="A gateway, host:port.")
]


def ask(
    address: str | None,
    state_dir: Path,
    work: Callable[[Gateway], Coroutine[Any, Any, object]],
    *,
    interrupted: str = "cancelled",
) -> None:
    """Do `work` with a gateway, as `do` does."""
    do(lambda: work(gateway_of(address, state_dir)), interrupted=interrupted)


def do(work: Callable[[], Coroutine[Any, Any, object]], *, interrupted: str = "cancelled") -> None:
    """Do `work`; what goes wrong is told in lines, and by the exit status.

    Args:
        interrupted: what is said at Ctrl-C, if anything.
    """
    complaint = Console(stderr=True)
    try:
        asyncio.run(work())
    except ProblemError as error:
        for line in error.lines:
            complaint.print(f"[red]{escape(line)}[/]", soft_wrap=True, highlight=False)
        raise typer.Exit(error.status) from error
    except KeyboardInterrupt as error:
        if interrupted:
            complaint.print(interrupted)
        raise typer.Exit(INTERRUPTED) from error


def wide() -> Console:
    """For tables: a file or a pipe has no width to fit into."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_COLUMNS)
