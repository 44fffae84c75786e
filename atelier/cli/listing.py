"""`atelier list | delete`: generations that were asked for."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atelier.cli.generate import describe
from atelier.cli.options import AddressOption, StateDirOption, ask, wide
from atelier.cli.up import DEFAULT_STATE_DIR
from atelier.cli.where import Gateway, line_to
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc

CALL_SECONDS = 60.0
MAX_PAGE = 1_000
STATES = [name.removeprefix("GENERATION_STATE_").lower() for name in pb.GenerationState.keys()[1:]]
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PROMPT_SHOWN = 40


def list_(
    model: Annotated[str, typer.Option(help="Of this model.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="With this label: NAME=VALUE; several: all of them.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help=f"In one of these: {', '.join(STATES)}.")
    ] = None,
    since: Annotated[str, typer.Option(help="Not older: 90s, 30m, 2h, 7d, or 2026-11-23.")] = "",
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a JSON a line.")] = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """List generations, newest first."""
    which = filter_of(model, label or [], state or [], since, datetime.now(UTC))
    ask(address, state_dir, lambda where: show(where, which, last, wide(), as_json=as_json))


def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Generations that have ended.")],
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Delete generations that have ended, and all that was made. It cannot be taken back."""
    ask(address, state_dir, lambda where: erase(where, ids, Console()))


def add_to(app: typer.Typer) -> None:
    """Register both."""
    app.command("list")(list_)
    app.command()(delete)


async def show(
    where: Gateway, which: pb.GenerationFilter, last: int, console: Console, *, as_json: bool
) -> None:
    """Print the newest `last` of them."""
    found: list[pb.Generation] = []
    token = ""
    async with line_to(where) as channel:
        service = generation_pb2_grpc.GenerationServiceStub(channel)
        while len(found) < last and (token or not found):
            request = pb.ListGenerationsRequest(
                filter=which, page_token=token, page_size=min(last - len(found), MAX_PAGE)
            )
            page = await service.ListGenerations(request, timeout=CALL_SECONDS)
            found += page.generations
            token = page.next_page_token
            if not token:
                break
    if as_json:
        for one in found:
            text = MessageToJson(one, preserving_proto_field_name=True, indent=None)
            console.print(text, highlight=False, markup=False, soft_wrap=True)
        return
    table = Table("id", "state", "model", "asked for", "prompt", "labels", box=None)
    for one in found:
        spec = one.video if one.WhichOneof("spec") == "video" else one.image
        labels = " ".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
        table.add_row(
            one.id,
            _state(one),
            escape(one.model),
            f"{one.create_time.ToDatetime():%Y-%m-%d %H:%M:%S}",
            escape(spec.prompt[:_PROMPT_SHOWN]),
            escape(labels),
        )
    console.print(table if found else "none")


async def erase(where: Gateway, ids: list[str], console: Console) -> None:
    """Delete each; stop at the first that is refused."""
    async with line_to(where) as channel:
        service = generation_pb2_grpc.GenerationServiceStub(channel)
        for id_ in ids:
            await service.DeleteGeneration(pb.DeleteGenerationRequest(id=id_), timeout=CALL_SECONDS)
            console.print(f"{id_} is deleted", highlight=False, markup=False)


def filter_of(
    model: str, labels: list[str], states: list[str], since: str, now: datetime
) -> pb.GenerationFilter:
    """What the options say.

    Raises:
        typer.BadParameter: one of them says nothing.
    """
    which = pb.GenerationFilter(model=model)
    for text in labels:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"--label {text}: say NAME=VALUE")
        which.labels[name] = value
    for text in states:
        if text.lower() not in STATES:
            raise typer.BadParameter(f"--state {text}: say one of {', '.join(STATES)}")
        which.states.append(pb.GenerationState.Value(f"GENERATION_STATE_{text.upper()}"))
    if since:
        which.created_after.FromDatetime(_moment(since, now))
    return which


def _moment(since: str, now: datetime) -> datetime:
    try:
        if short := re.fullmatch(r"(\d{1,6})([smhd])", since):
            return now - timedelta(**{_UNITS[short[2]]: int(short[1])})
        told = datetime.fromisoformat(since)
        return told if told.tzinfo else told.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        text = "say 90s, 30m, 2h, 7d, or a time such as 2026-11-23T18:00"
        raise typer.BadParameter(f"--since {since}: {text}") from error


def _state(generation: pb.Generation) -> str:
    name = pb.GenerationState.Name(generation.state).removeprefix("GENERATION_STATE_").lower()
    return describe(generation) if name == "running" else name
