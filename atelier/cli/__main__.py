"""`atelier`: the commands and their options. What they do is in a module each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from atelier.cli import doctor as doctor_
from atelier.cli import (
    files,
    given,
    keys,
    listing,
    operators,
    passed_on,
    presets,
    tenants,
    webhooks,
)
from atelier.cli import ps as ps_
from atelier.cli.generate import generate as generate_
from atelier.cli.generate import get as get_
from atelier.cli.options import AddressOption, StateDirOption, ask, wide
from atelier.cli.up import DEFAULT_STATE_DIR, UpOptions
from atelier.cli.up import up as up_
from atelier.cli.where import Shown, shown
from atelier.cli.wish import Wish
from atelier.embedded.stack import StackOptions

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

FORMAT_HELP = "png, jpeg, webp, avif; of a video mp4, webm. Else as --out is called."
PREVIEWS_HELP = (
    "Show in the terminal what there is after each step, as far as the model has previews."
)
PICTURE_HELP = "a file (PNG, JPEG, WebP, AVIF), or a key (results/..., inputs/...)."
WEBHOOK_HELP = "Is told of its end, signed with the secret that `webhooks rotate` makes."
RESIZE_HELP = "400x300; 400x or x300 keep the proportions."
OutOption = Annotated[Path, typer.Option("--out", "-o", help="A folder, or a file.")]


@app.callback()
def options(
    api_key_file: Annotated[
        Path | None, typer.Option(help="Of an API key; else the local stack's, or ATELIER_API_KEY.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Whose certificates the gateway's must lead to.")
    ] = None,
) -> None:
    """Diffusion models as a service: a prompt goes in, pictures come out."""
    shown.set(Shown(api_key_file, ca_file))


@app.command()
def up(
    devices: Annotated[int, typer.Option(min=1, max=16, help="How many, each with a Triton.")] = 1,
    device_memory: Annotated[float, typer.Option(min=0.1, help="GiB that each may use.")] = 2.0,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    gateway_port: Annotated[int | None, typer.Option(help="Else a free one, remembered.")] = None,
    schedulers: Annotated[
        int, typer.Option(min=1, max=4, help="One leads, the others stand by.")
    ] = 1,
    require_keys: Annotated[
        bool,
        typer.Option(
            "--keys/--no-keys",
            envvar="ATELIER_REQUIRE_KEYS",
            help="Whether calls without an API key are refused.",
        ),
    ] = True,
    prompt: Annotated[str | None, typer.Option(help="Draw this first, then serve.")] = None,
    once: Annotated[
        str | None, typer.Option(help="Draw this, then stop.", metavar="PROMPT")
    ] = None,
    out: OutOption = Path("out"),
) -> None:
    """Start every part on this machine, and serve until Ctrl-C."""
    if prompt is not None and once is not None:
        raise typer.BadParameter("give --prompt or --once, not both")
    memory = int(device_memory * 2**30)
    stack = StackOptions(devices, memory, gateway_port, schedulers, require_keys)
    wanted = once if once is not None else prompt
    raise typer.Exit(up_(UpOptions(state_dir, stack, wanted, once is not None, out), Console()))


@app.command()
def down(state_dir: StateDirOption = DEFAULT_STATE_DIR) -> None:
    """Stop the `atelier up` that runs here."""
    raise typer.Exit(ps_.down(state_dir, Console()))


@app.command()
def ps(state_dir: StateDirOption = DEFAULT_STATE_DIR) -> None:
    """Show every part, every device and every queue."""
    raise typer.Exit(ps_.ps(state_dir, wide()))


@app.command()
def doctor(state_dir: StateDirOption = DEFAULT_STATE_DIR) -> None:
    """Check everything, and say what to do about what is wrong."""
    raise typer.Exit(doctor_.doctor(state_dir, wide()))


@app.command()
def generate(
    prompt: str,
    model: Annotated[str, typer.Option(help="Else the first that makes pictures.")] = "",
    negative: Annotated[str, typer.Option(help="What it should not show.")] = "",
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, or one number.")] = None,
    preset: Annotated[str, typer.Option(help="For what is not said: NAME, NAME@VERSION.")] = "",
    steps: Annotated[int | None, typer.Option(help="Denoise steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How strictly to obey.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same picture.")] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="How many pictures.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames a second of a video.")] = None,
    format_: Annotated[str, typer.Option("--format", help=FORMAT_HELP)] = "",
    quality: Annotated[int | None, typer.Option(help="1 to 100; of jpeg, webp, avif.")] = None,
    metadata: Annotated[bool, typer.Option(help="Write into the file how it was made.")] = True,
    init_image: Annotated[str, typer.Option(help=f"Start from this picture: {PICTURE_HELP}")] = "",
    mask: Annotated[str, typer.Option(help="White where --init-image is to be drawn anew.")] = "",
    strength: Annotated[
        float | None, typer.Option(help="How far from --init-image, above 0 to 1.")
    ] = None,
    first_frame: Annotated[str, typer.Option(help=f"Of a video: {PICTURE_HELP}")] = "",
    crop: Annotated[str | None, typer.Option(help="Keep this part: 400x300+LEFT+TOP.")] = None,
    resize: Annotated[str | None, typer.Option(help=RESIZE_HELP)] = None,
    thumbnail: Annotated[int | None, typer.Option(help="Pixels of a small copy beside it.")] = None,
    previews: Annotated[bool, typer.Option("--previews", help=PREVIEWS_HELP)] = False,
    webhook: Annotated[str, typer.Option(metavar="URL", help=WEBHOOK_HELP)] = "",
    out: OutOption = Path("out"),
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Draw or film PROMPT."""
    width, height = parse_size(size)
    part, new_size = given.crop(crop), given.resize(resize)

    def wish() -> Wish:
        if format_:
            files.check_format(format_, out)
        return Wish(
            prompt, model, negative, width, height, steps, guidance, seed, n,
            fps, format_ or files.format_of(out), quality, metadata, 1 if previews else None,
            given.picture("--init-image", init_image), given.picture("--mask", mask), strength,
            given.picture("--first-frame", first_frame), thumbnail, part, new_size, preset, webhook,
        )  # fmt: skip

    ask(address, state_dir, lambda where: generate_(where, wish(), out, Console()))


@app.command()
def get(
    generation: Annotated[str, typer.Argument(metavar="ID", help="A generation's id.")],
    out: OutOption = Path("out"),
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Wait for a generation that was asked for earlier, and write its results."""
    ask(address, state_dir, lambda where: get_(where, generation, out, Console()))


def parse_size(size: str | None) -> tuple[int | None, int | None]:
    """512x768 or 512 (a square)."""
    if size is None:
        return None, None
    width, _, height = size.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError as error:
        raise typer.BadParameter(f"--size {size}: say 512x768, or 512 for a square") from error


app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")
app.add_typer(tenants.app, name="tenants")
app.command()(tenants.usage)
listing.add_to(app)
app.add_typer(presets.app, name="presets")
operators.add_to(app)
passed_on.add_to(app)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
