"""`atelier export`, `profile` and `models`: the exporter's commands, in this one's place."""

from __future__ import annotations

import os
import sys

import typer

COMMANDS = {
    "export": "Turn a diffusers checkpoint into Triton models and a card.",
    "profile": "Measure what a model costs on this machine, and write it into its card.",
    "models": "List, check and remove models of a repository.",
}


def add_to(app: typer.Typer) -> None:
    """Register them; all words after them are passed on."""
    for name, purpose in COMMANDS.items():
        app.command(
            name,
            help=purpose,
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )(_pass_on)


def _pass_on(context: typer.Context) -> None:
    words = [sys.executable, "-m", "exporters", str(context.info_name), *context.args]
    # In this process's place: a signal to it is one to the export, which would else go on alone.
    os.execv(sys.executable, words)  # noqa: S606 - no shell is meant
