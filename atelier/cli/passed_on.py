"""`atelier export | profile | models | simulate | scenario`: commands of other packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

COMMANDS = {
    "exporters": {
        "export": "Turn a diffusers checkpoint into Triton models and a card.",
        "profile": "Measure what a model costs on this machine, and write it into its card.",
        "models": "List, check and remove models of a repository.",
    },
    "scheduler.simulation": {
        "simulate": "Run a scenario's requests through policies, under a virtual clock.",
        "scenario": "Make a scenario folder, from the GenTD26 trace or of a made family.",
    },
}


def add_to(app: typer.Typer) -> None:
    """Register them; all words after them are passed on."""
    for package, commands in COMMANDS.items():
        for name, purpose in commands.items():
            app.command(
                name,
                help=purpose,
                add_help_option=False,
                context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
            )(_to(package))


def _to(package: str) -> Callable[[typer.Context], None]:
    def pass_on(context: typer.Context) -> None:
        words = [sys.executable, "-m", package, str(context.info_name), *context.args]
        # In this process's place: a signal to it is one to the work, which would else go on alone.
        os.execv(sys.executable, words)  # noqa: S606 - no shell is meant

    return pass_on
