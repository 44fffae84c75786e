"""The exporter's commands: `python -m exporters export CHECKPOINT --name NAME`, and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(highlight=False)

Repository = Annotated[Path, typer.Option(help="Triton model repository.")]


def _say(line: str) -> None:
    console.print(line, soft_wrap=True)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder in diffusers' format.")],
    name: Annotated[str, typer.Option(help="The model's name, as callers will say it.")],
    repository: Repository = Path("triton_repo"),
) -> None:
    """Turn a checkpoint into three Triton models and a card, if it passes its parity checks."""
    # Imported here, because torch takes seconds that `verify` and `--help` need not spend.
    from exporters.parity import ParityError
    from exporters.pipeline import export_model

    try:
        export_model(checkpoint, name, repository, say=_say)
    except (OSError, ValueError, ParityError) as error:
        console.print(f"[red]not published:[/red] {error}", soft_wrap=True)
        raise typer.Exit(1) from error


@app.command()
def verify(repository: Repository = Path("triton_repo")) -> None:
    """Rebuild what is generated in the repository and compare: configs, signatures, versions."""
    from exporters.repository import problems

    if found := problems(repository):
        for problem in found:
            console.print(f"[red]differs:[/red] {problem}", soft_wrap=True)
        raise typer.Exit(1)
    console.print(f"{repository}: everything generated is as it should be")


if __name__ == "__main__":
    app()
