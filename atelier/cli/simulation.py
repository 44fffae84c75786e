"""`atelier simulate` and `atelier scenario`: the scheduler's commands, in their own process."""

from __future__ import annotations

import subprocess
import sys

import typer

COMMANDS = {
    "simulate": "Run a scenario's requests through scheduling policies, under a virtual clock.",
    "scenario": "Make a scenario folder, from the GenTD26 trace or of a made family.",
}


def add_to(app: typer.Typer) -> None:
    """Register both; all words after them are passed on."""
    for name, purpose in COMMANDS.items():
        app.command(
            name,
            help=purpose,
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )(_pass_on)


def _pass_on(context: typer.Context) -> None:
    words = [sys.executable, "-m", "scheduler.simulation", str(context.info_name), *context.args]
    raise typer.Exit(subprocess.run(words, check=False).returncode)
