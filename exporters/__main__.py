"""The exporter's commands: a checkpoint becomes a served model.

`atelier export`, `atelier profile` and `atelier models` hand their words on to here.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
models = typer.Typer(no_args_is_help=True, help="List, check and remove models.")
app.add_typer(models, name="models")
console = Console(highlight=False)

Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
HERE = Path("triton_repo")
ENGINES = {"onnx": "onnxruntime", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder in diffusers' format.")],
    name: Annotated[str, typer.Option(help="The model's name, as callers will say it.")],
    family: Annotated[
        str, typer.Option(help="sd, lcm, sdxl, sd3, wan ...; auto asks it.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8; see docs/exporters.md.")] = "",
    engine: Annotated[str, typer.Option(help="onnx, tensorrt or tensorrt-rtx.")] = "onnx",
    shapes: Annotated[str, typer.Option(help="512x512,768x768: sizes, the default first.")] = "",
    max_batch: Annotated[int, typer.Option(min=1, max=64, help="Rows of one call.")] = 16,
    samplers: Annotated[str, typer.Option(help="ddim,euler: the default first.")] = "",
    capabilities: Annotated[
        str, typer.Option(help="SM86,SM89: GPUs that TensorRT-RTX builds for.")
    ] = "",
    parts: Annotated[int, typer.Option(min=1, max=8, help="Cut the denoiser for a gang.")] = 1,
    frames: Annotated[int, typer.Option(min=0, help="Pictures in a clip.")] = 0,
    text_tokens: Annotated[int, typer.Option(min=0, help="Length of T5's prompts.")] = 0,
    repository: Repository = HERE,
) -> None:
    """Turn a checkpoint into Triton models and a card, if it passes its parity checks."""
    if engine not in ENGINES:
        raise typer.BadParameter(f"--engine {engine}: say one of {', '.join(ENGINES)}")
    sizes = [parse_size(text) for text in shapes.split(",") if text]
    try:
        # Here, because torch takes seconds that `models` and `--help` need not spend.
        from exporters.checkpoint import Options
        from exporters.job import Request
        from exporters.pipeline import export_model
    except ImportError as error:
        complain(f"{error}: pip install 'atelier-serving[export]'")
        raise typer.Exit(1) from error
    from exporters.errors import ExportError
    from exporters.progress import Show

    request = Request(
        folder=checkpoint,
        name=name,
        repository=repository,
        family=family,
        precision=precision or ("fp32" if engine == "onnx" else "fp16"),  # type: ignore[arg-type]
        engine=ENGINES[engine],  # type: ignore[arg-type]
        shapes=sizes,
        max_batch=max_batch,
        samplers=[text for text in samplers.split(",") if text],
        parts=parts,
        capabilities=[text for text in capabilities.split(",") if text],
        options=Options(text_tokens, frames),
    )
    try:
        export_model(request, Show(console))
    except ExportError as error:
        complain(f"not published: {error}")
        raise typer.Exit(1) from error


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="A model of the repository.")],
    shapes: Annotated[str, typer.Option(help="Else those of the card.")] = "",
    device: Annotated[str, typer.Option(help="What is measured, in words.")] = "",
    repository: Repository = HERE,
) -> None:
    """Measure what a model costs on this machine, and write it into its card."""
    from exporters.errors import ExportError
    from exporters.profile import profile as measure
    from exporters.progress import Show

    sizes = [parse_size(text) for text in shapes.split(",") if text]
    _open(repository)
    try:
        measure(repository, model, sizes, device or f"a CPU ({platform.machine()})", Show(console))
    except (ExportError, OSError) as error:
        complain(str(error))
        raise typer.Exit(1) from error


@models.command("list")
def list_models(repository: Repository = HERE) -> None:
    """Show every model of the repository, and what models share."""
    from exporters.repository import cards, folders_of

    _open(repository)
    found = list(cards(repository).values())
    if not found:
        complain(f"{repository}: no model cards (*.toml); `atelier export` writes one")
        raise typer.Exit(1)
    table = Table(box=None, pad_edge=False)
    for column in ("model", "family", "engine", "resident", "shapes", "samplers", "shared with"):
        table.add_column(column)
    for card in found:
        own = set(folders_of(card))
        sharing = [c.name for c in found if c is not card and own & set(folders_of(c))]
        table.add_row(
            card.name, card.family, card.engine, f"{card.resident_bytes / 2**20:.1f} MiB",
            ", ".join(card.profiles), ", ".join(card.samplers), ", ".join(sharing),
        )  # fmt: skip
    wide = console if console.is_terminal else Console(width=240)
    wide.print(table)


@models.command()
def verify(
    model: Annotated[str, typer.Argument(help="One model; else all.")] = "",
    repository: Repository = HERE,
) -> None:
    """Check every file against its hash, and every config against what it is generated from."""
    _verify(repository, model)


@app.command("verify", hidden=True)
def verify_all(repository: Repository = HERE) -> None:
    """Check the whole repository (`make verify`)."""
    _verify(repository, "")


@models.command()
def remove(
    model: Annotated[str, typer.Argument(help="A model of the repository.")],
    repository: Repository = HERE,
) -> None:
    """Remove a model; what other models share with it stays."""
    from exporters.errors import ExportError
    from exporters.repository import remove as remove_model

    _open(repository)
    try:
        gone = remove_model(repository, model)
    except ExportError as error:
        complain(str(error))
        raise typer.Exit(1) from error
    console.print(f"removed {model}: {', '.join(gone) or 'its card alone'}", soft_wrap=True)


@models.command()
def guard(
    model: Annotated[str, typer.Argument(help="A model of the repository.")],
    checker: Annotated[str, typer.Argument(help="A Triton model there that scores pictures.")],
    threshold: Annotated[float, typer.Option(help="What scores above it is withheld.")] = 0.5,
    input_: Annotated[str, typer.Option("--input", help="uint8 [N, H, W, 3]")] = "images",
    output: Annotated[str, typer.Option(help="float32 [N] or [N, 1]")] = "unsafe",
    repository: Repository = HERE,
) -> None:
    """Have a safety checker look at what a model makes, before anybody else does."""
    from atelier.catalog import Safety
    from exporters.errors import ExportError
    from exporters.guard import guard as guard_model

    _open(repository)
    try:
        guard_model(repository, model, Safety(checker, input_, output, threshold))
    except (ExportError, ValueError) as error:
        complain(str(error))
        raise typer.Exit(1) from error
    said = f"{model}: what {checker} scores above {threshold:g} is withheld; restart what serves it"
    console.print(said, soft_wrap=True, highlight=False)


@models.command()
def unguard(
    model: Annotated[str, typer.Argument(help="A model of the repository.")],
    repository: Repository = HERE,
) -> None:
    """Publish what a model makes without a look at it."""
    from exporters.errors import ExportError
    from exporters.guard import unguard as unguard_model

    _open(repository)
    try:
        checker = unguard_model(repository, model)
    except ExportError as error:
        complain(str(error))
        raise typer.Exit(1) from error
    said = f"{model}: {checker} is asked no more; its files stay; restart what serves it"
    console.print(said, soft_wrap=True, highlight=False)


def parse_size(text: str) -> tuple[int, int]:
    """512x768 or 512 (a square): width and height."""
    width, _, height = text.lower().strip().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError as error:
        raise typer.BadParameter(f"--shapes {text}: say 512x768, or 512 for a square") from error


def complain(line: str) -> None:
    """Say what is wrong."""
    console.print(f"[red]{escape(line)}[/]", soft_wrap=True)


def _open(repository: Path) -> None:
    """Refuse what is no folder, and finish what a killed export left half moved in."""
    from exporters.publishing import recover

    if not repository.is_dir():
        complain(f"--repository {repository}: no such folder; name the folder of the model cards")
        raise typer.Exit(1)
    for card in recover(repository):
        console.print(f"{card}: an interrupted export is now published", soft_wrap=True)


def _verify(repository: Path, model: str) -> None:
    from exporters.repository import problems

    _open(repository)
    if found := problems(repository, model):
        for problem in found:
            complain(f"differs: {problem}")
        raise typer.Exit(1)
    console.print(f"{repository}: everything generated is as it should be")


if __name__ == "__main__":
    app(prog_name="atelier")
