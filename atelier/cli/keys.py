"""`atelier keys`: API keys, for operators."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atelier.api_keys import ID_BYTES, SECRET_BYTES, new_key
from atelier.cli.fleet import CALL_SECONDS, print_json, say
from atelier.cli.options import AddressOption, StateDirOption, ask, wide
from atelier.cli.up import DEFAULT_STATE_DIR
from atelier.cli.where import Gateway, line_to
from atelier.v1 import access_pb2 as pb
from atelier.v1 import access_pb2_grpc

DAY_SECONDS = 86_400
CALLERS_SCOPES = ["generate", "read"]

app = typer.Typer(help="Who may call, and as whom.", no_args_is_help=True)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="As `list` tells.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whom its calls are made as.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="generate, read, admin; else the first two.")
    ] = None,
    days: Annotated[int, typer.Option(help="Until it expires; 0: never.")] = 0,
    description: Annotated[str, typer.Option(help="For whoever reads the list.")] = "",
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Make a key, and print it: nobody tells it again."""
    request = pb.CreateKeyRequest(
        tenant=tenant, scopes=scope or CALLERS_SCOPES, expire_days=days, description=description
    )
    ask(address, state_dir, lambda where: _create(where, request, Console()))


@app.command()
def draw(
    file: Annotated[Path, typer.Argument(help="A new file, which only its user can read.")],
) -> None:
    """Write an operator's key to FILE, for gateways to be told of: ATELIER_OPERATOR_KEYS=FILE."""
    text = new_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text + "\n")
    except OSError as error:
        raise typer.BadParameter(f"cannot make {file}: {error.strerror}") from error
    say(Console(), f"an operator's key lies in {file}: show it with --api-key-file {file}")


@app.command(name="list")
def list_(
    tenant: Annotated[str, typer.Argument(metavar="[TENANT]", help="Else everybody's.")] = "",
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show keys, with those that ended; never the whole of one."""
    ask(address, state_dir, lambda where: _list(where, tenant, wide(), as_json=as_json))


@app.command()
def revoke(
    key_id: KeyArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """End a key: within 10 seconds no gateway takes it any more."""
    ask(address, state_dir, lambda where: _revoke(where, key_id, Console()))


@app.command()
def rotate(
    key_id: KeyArgument,
    overlap: Annotated[
        int, typer.Option(min=0, help="Seconds for which the one before is taken as well.")
    ] = DAY_SECONDS,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Make another key like it, and print it."""
    ask(address, state_dir, lambda where: _rotate(where, key_id, overlap, Console()))


@asynccontextmanager
async def _keys_at(where: Gateway) -> AsyncIterator[access_pb2_grpc.AccessServiceStub]:
    """A gateway's AccessService."""
    async with line_to(where) as line:
        yield access_pb2_grpc.AccessServiceStub(line)


async def _create(where: Gateway, request: pb.CreateKeyRequest, console: Console) -> None:
    async with _keys_at(where) as keys:
        made = await keys.CreateKey(request, timeout=CALL_SECONDS)
    _tell(made.key, made.text, console)


async def _list(where: Gateway, tenant: str, console: Console, *, as_json: bool) -> None:
    async with _keys_at(where) as keys:
        answer = await keys.ListKeys(pb.ListKeysRequest(tenant=tenant), timeout=CALL_SECONDS)
    if as_json:
        print_json(answer)
    elif answer.keys:
        console.print(table(answer.keys, datetime.now(UTC)))
    else:
        say(console, "no keys; make one with `atelier keys create TENANT`")


async def _revoke(where: Gateway, key_id: str, console: Console) -> None:
    async with _keys_at(where) as keys:
        request = pb.RevokeKeyRequest(id=key_id)
        ended = (await keys.RevokeKey(request, timeout=CALL_SECONDS)).key
    say(console, f"key {ended.id} of {ended.tenant} is revoked")


async def _rotate(where: Gateway, key_id: str, overlap: int, console: Console) -> None:
    async with _keys_at(where) as keys:
        request = pb.RotateKeyRequest(id=key_id, overlap_seconds=overlap)
        made = await keys.RotateKey(request, timeout=CALL_SECONDS)
    _tell(made.key, made.text, console)
    say(console, f"the one before, {key_id}, is taken for {overlap} s more")


def _tell(key: pb.ApiKey, text: str, console: Console) -> None:
    say(console, f"key {key.id} of {key.tenant}: {', '.join(key.scopes)}")
    say(console, text)
    say(console, "keep it now: nobody tells it again")


def table(keys: Sequence[pb.ApiKey], now: datetime) -> Table:
    """Keys for a person; `now` tells which have expired."""
    rows = Table("ID", "TENANT", "SCOPES", "STATE", "EXPIRES", "LAST USED", "DESCRIPTION")
    for key in keys:
        expires = _time(key.expire_time) if key.HasField("expire_time") else "never"
        used = _time(key.last_use_time) if key.HasField("last_use_time") else "never"
        rows.add_row(
            key.id, key.tenant, " ".join(key.scopes), state_of(key, now), expires, used,
            escape(key.description),
        )  # fmt: skip
    return rows


def state_of(key: pb.ApiKey, now: datetime) -> str:
    """Whether calls with it are answered."""
    if key.HasField("revoke_time"):
        return "revoked"
    if key.HasField("expire_time") and key.expire_time.ToDatetime(UTC) <= now:
        return "expired"
    return "good"


def _time(moment: Timestamp) -> str:
    return f"{moment.ToDatetime(UTC):%Y-%m-%d %H:%M}"
