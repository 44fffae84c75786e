"""`atelier webhooks`: the commands and their options. What they do is in `hooks`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from atelier.cli import hooks
from atelier.cli.options import AddressOption, StateDirOption, ask, wide
from atelier.cli.up import DEFAULT_STATE_DIR

DAY_SECONDS = 86_400

app = typer.Typer(help="Where the ends of generations are told.", no_args_is_help=True)

WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where to post events: https, of a public host.")],
    event: Annotated[
        list[str] | None, typer.Option(help="succeeded, failed, cancelled, expired; else all.")
    ] = None,
    prompts: Annotated[bool, typer.Option("--prompts", help="Tell prompts, too.")] = False,
    description: Annotated[str, typer.Option(help="For whoever reads the list.")] = "",
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Make a webhook, and print its secret."""
    ask(
        address,
        state_dir,
        lambda where: hooks.create(
            where, url, event or (), description, Console(), prompts=prompts
        ),
    )


@app.command(name="list")
def list_(
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show every webhook."""
    ask(address, state_dir, lambda where: hooks.list_(where, wide(), as_json=as_json))


@app.command()
def enable(
    webhook: WebhookArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Tell WEBHOOK again what happens from now on."""
    ask(address, state_dir, lambda where: hooks.enable(where, webhook, Console(), enabled=True))


@app.command()
def disable(
    webhook: WebhookArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Tell WEBHOOK nothing more; what waits is given up."""
    ask(address, state_dir, lambda where: hooks.enable(where, webhook, Console(), enabled=False))


@app.command()
def delete(
    webhook: WebhookArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Delete WEBHOOK, with all that it was still to be told."""
    ask(address, state_dir, lambda where: hooks.delete(where, webhook, Console()))


@app.command()
def rotate(
    webhook: Annotated[
        str,
        typer.Argument(metavar="[WEBHOOK]", help="Else the tenant's own, for single requests."),
    ] = "",
    overlap: Annotated[
        int, typer.Option(min=0, help="Seconds for which the one before signs as well.")
    ] = DAY_SECONDS,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Make another secret, and print it."""
    ask(address, state_dir, lambda where: hooks.rotate(where, webhook, overlap, Console()))


@app.command()
def test(
    webhook: WebhookArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Send WEBHOOK a test event, and say what came back."""
    ask(address, state_dir, lambda where: hooks.test(where, webhook, Console()))


@app.command()
def deliveries(
    webhook: Annotated[str, typer.Argument(metavar="[WEBHOOK]", help="Else of all.")] = "",
    generation: Annotated[str, typer.Option(help="Only of this generation.")] = "",
    last: Annotated[int, typer.Option("--last", "-n", min=1, max=1_000, help="How many.")] = 20,
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show what was told lately, and what came back."""
    ask(
        address,
        state_dir,
        lambda where: hooks.deliveries(where, webhook, generation, last, wide(), as_json=as_json),
    )


@app.command()
def redeliver(
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id.")],
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Deliver again what was delivered, given up, or waits for its next attempt."""
    ask(address, state_dir, lambda where: hooks.redeliver(where, delivery, Console()))
