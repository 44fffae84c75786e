"""`atelier presets ...`: named templates of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from atelier.cli import problems
from atelier.cli.fleet import say
from atelier.cli.options import AddressOption, StateDirOption, ask, wide
from atelier.cli.up import DEFAULT_STATE_DIR
from atelier.cli.where import Gateway, line_to
from atelier.suggest import known_names
from atelier.v1 import model_pb2, model_pb2_grpc, preset_pb2_grpc
from atelier.v1 import preset_pb2 as pb

CALL_SECONDS = 30.0
MAX_PAGE = 1_000

app = typer.Typer(help="Named templates of parameters for a model.", no_args_is_help=True)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model it is for.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]
SharedOption = Annotated[bool, typer.Option("--shared", help="Everybody's, not your own.")]


@app.command("list")
def list_(
    model: Annotated[str, typer.Option(help="Only those for this model.")] = "",
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """List your presets and the shared ones."""
    ask(address, state_dir, lambda where: show_all(where, model, wide()))


@app.command("show")
def show(
    model: ModelArgument,
    name: NameArgument,
    version: Annotated[int, typer.Option(min=1, help="An earlier one.")] = 0,
    shared: SharedOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show what a preset says."""
    key = pb.GetPresetRequest(model=model, name=name, version=version, shared=shared)
    ask(address, state_dir, lambda where: show_one(where, key, Console()))


@app.command("set")
def set_(
    model: ModelArgument,
    name: NameArgument,
    values: Annotated[
        list[str], typer.Argument(metavar="FIELD=VALUE...", help="steps=8 output.format=webp")
    ],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    shared: SharedOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Make a preset, or replace all of it by a new version."""
    wanted = pb.Preset(model=model, name=name, description=description, shared=shared)
    ask(address, state_dir, lambda where: write(where, wanted, values, Console()))


@app.command("delete")
def delete(
    model: ModelArgument,
    name: NameArgument,
    shared: SharedOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Delete a preset; its versions stay readable."""
    key = pb.DeletePresetRequest(model=model, name=name, shared=shared)
    ask(address, state_dir, lambda where: erase(where, key, Console()))


async def show_all(where: Gateway, model: str, console: Console) -> None:
    """Print a line on each."""
    table = Table("model", "name", "version", "says", "for", box=None)
    async with line_to(where) as channel:
        service = preset_pb2_grpc.PresetServiceStub(channel)
        request = pb.ListPresetsRequest(model=model, page_size=MAX_PAGE)
        while True:
            page = await service.ListPresets(request, timeout=CALL_SECONDS)
            for one in page.presets:
                name = f"shared/{one.name}" if one.shared else one.name
                said = " ".join(_said(one))
                table.add_row(one.model, name, str(one.version), said, one.description)
            request.page_token = page.next_page_token
            if not request.page_token:
                break
    console.print(table if table.row_count else "none")


async def show_one(where: Gateway, key: pb.GetPresetRequest, console: Console) -> None:
    """Print what `set` would take."""
    async with line_to(where) as channel:
        service = preset_pb2_grpc.PresetServiceStub(channel)
        found = (await service.GetPreset(key, timeout=CALL_SECONDS)).preset
    say(console, f"{found.model} {found.name}, version {found.version}  {found.description}")
    for line in _said(found):
        say(console, f"  {line}")


async def write(where: Gateway, wanted: pb.Preset, values: list[str], console: Console) -> None:
    """Make it; where it is there, let it follow the version that stands.

    Raises:
        ProblemError: a value cannot be read, or it was refused.
    """
    async with line_to(where) as channel:
        models = model_pb2_grpc.ModelServiceStub(channel)
        asked = model_pb2.GetModelRequest(name=wanted.model)
        model = (await models.GetModel(asked, timeout=CALL_SECONDS)).model
        fill_in(wanted, values, model)
        service = preset_pb2_grpc.PresetServiceStub(channel)
        key = pb.GetPresetRequest(model=wanted.model, name=wanted.name, shared=wanted.shared)
        try:
            stands = (await service.GetPreset(key, timeout=CALL_SECONDS)).preset
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            made = await service.CreatePreset(
                pb.CreatePresetRequest(preset=wanted), timeout=CALL_SECONDS
            )
        else:
            wanted.etag = stands.etag
            made = await service.UpdatePreset(
                pb.UpdatePresetRequest(preset=wanted), timeout=CALL_SECONDS
            )
    say(console, f"{made.preset.name} for {made.preset.model} is at version {made.preset.version}")


async def erase(where: Gateway, key: pb.DeletePresetRequest, console: Console) -> None:
    """Delete it."""
    async with line_to(where) as channel:
        service = preset_pb2_grpc.PresetServiceStub(channel)
        await service.DeletePreset(key, timeout=CALL_SECONDS)
    say(console, f"{key.name} for {key.model} is deleted")


def fill_in(preset: pb.Preset, values: list[str], model: model_pb2.Model) -> None:
    """Let a preset for a model say FIELD=VALUE.

    Raises:
        ProblemError: a field that there is not, or a value that is none.
    """
    video = model.kind == model_pb2.MODEL_KIND_VIDEO
    spec: Message = preset.video if video else preset.image
    spec.SetInParent()
    known = {parameter.field: parameter for parameter in model.parameters}
    for text in values:
        path, equals, value = text.partition("=")
        if path not in known or not equals:
            line = (
                f"{text}: say FIELD=VALUE, of a field of {model.name}; {known_names(path, known)}"
            )
            raise problems.ProblemError([line], problems.BAD_INPUT)
        choices = known[path].choices
        inner: Any = next(
            (one for one in choices if one.lower().endswith(f"_{value.lower()}")), value
        )
        for name in reversed(path.split(".")):
            inner = {name: inner}
        try:
            spec.MergeFrom(ParseDict(inner, type(spec)()))
        except ParseError as error:
            line = f"{text}: {path} takes no such value"
            raise problems.ProblemError([line], problems.BAD_INPUT) from error


def _said(preset: pb.Preset) -> Iterator[str]:
    spec = preset.video if preset.WhichOneof("spec") == "video" else preset.image

    def leaves(values: dict[str, Any], path: str) -> Iterator[str]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{path}{name}.")
            else:
                yield f"{path}{name}={value}"

    return leaves(MessageToDict(spec, preserving_proto_field_name=True), "")
