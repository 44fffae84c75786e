"""Which gateway a command speaks to, by what line, and what it shows there."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from pydantic import ValidationError

from atelier import rpc
from atelier.api_keys import read_key
from atelier.cli.problems import BAD_INPUT, ProblemError, of_call
from atelier.config_lines import CallerSettings, faults, is_loopback
from atelier.embedded.state import StackRecord, StateDir
from atelier.lines import PassingChannel, bearer


@dataclass(frozen=True)
class Gateway:
    """A gateway, and what it is shown.

    Attributes:
        key: an API key; empty: none.
        credentials: of TLS; None: the line is not encrypted.
        option: names it on another command's line.
    """

    address: str
    key: str = field(default="", repr=False)
    credentials: grpc.ChannelCredentials | None = None
    option: str = ""

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True)
class Shown:
    """What the options before a command's name say: they are those of all commands.

    Attributes:
        authority: certificates that the gateway's must lead to.
    """

    key_file: Path | None = None
    authority: Path | None = None


shown: ContextVar[Shown] = ContextVar("shown", default=Shown())  # noqa: B039 - it is frozen


def gateway_of(address: str | None, state_dir: Path) -> Gateway:
    """The gateway at the address that was given, else that of the stack that runs in `state_dir`.

    That stack's own key is shown to it alone; to any other, what the environment says. A file that
    was named goes before both.

    Raises:
        ProblemError: there is none, or what it should be shown cannot be read.
    """
    options, state = shown.get(), StateDir(state_dir)
    record = state.read()
    if record is not None and record.is_alive() and address in (None, "", record.gateway):
        found = of_stack(state, record)
        return replace(found, key=_key_in(options.key_file)) if options.key_file else found
    if not address:
        raise ProblemError(
            [
                f"nothing runs in {state_dir}",
                "start it with `atelier up`, or name a gateway with --address",
            ]
        )
    try:
        settings = CallerSettings()
    except ValidationError as error:
        raise ProblemError(faults(error), BAD_INPUT) from error
    key = settings.api_key.get_secret_value().strip()
    if file := options.key_file or settings.api_key_file:
        key = _key_in(file)
    elif key:
        _check(key, "ATELIER_API_KEY")
    credentials = _credentials(address, options.authority, settings)
    return Gateway(address, key, credentials, f"--address {address}")


def of_stack(state: StateDir, record: StackRecord) -> Gateway:
    """That of a stack on this machine, with the key that lies in its folder."""
    return Gateway(
        record.gateway, state.read_key(), None, f"--state-dir {os.path.relpath(state.root)}"
    )


@asynccontextmanager
async def line_to(where: Gateway) -> AsyncIterator[grpc.aio.Channel]:
    """A line to a gateway. What a call in the block ends with becomes a ProblemError."""
    async with channel_to(where) as line:
        try:
            yield line
        except grpc.aio.AioRpcError as error:
            raise of_call(error, where.address) from error


def channel_to(where: Gateway) -> grpc.aio.Channel:
    """The same, for who tells what goes wrong in another way."""
    channel = rpc.channel(where.address, credentials=where.credentials)
    return PassingChannel(lambda: channel, bearer(where.key)) if where.key else channel


def program(name: str) -> str:
    """How a person would call a program of this environment from here."""
    beside = Path(sysconfig.get_path("scripts")) / name
    if shutil.which(name) == str(beside) or not beside.exists():
        return name
    near = os.path.relpath(beside)
    return str(beside) if near.startswith("..") else near


def _key_in(path: Path) -> str:
    """The key that a file holds; never told, also where it is none.

    Raises:
        ProblemError: it cannot be read, or holds no key.
    """
    key = _read(path, "the API key").decode(errors="replace").strip()
    _check(key, str(path))
    return key


def _check(key: str, source: str) -> None:
    if read_key(key) is None:
        line = f"{source}: it is no API key, or not all of one: `atelier keys create` tells keys"
        raise ProblemError([line], BAD_INPUT)


def _credentials(
    address: str, authority: Path | None, settings: CallerSettings
) -> grpc.ChannelCredentials | None:
    """TLS to whoever is on another machine; on this one, where an authority is named."""
    authority = authority or settings.ca_file
    if is_loopback(address) and authority is None:
        return None
    trusted = _read(authority, "--ca-file") if authority else None
    if settings.client_certificate is None or settings.client_key is None:
        return grpc.ssl_channel_credentials(trusted)
    return grpc.ssl_channel_credentials(
        trusted,
        _read(settings.client_key, "ATELIER_CLIENT_KEY"),
        _read(settings.client_certificate, "ATELIER_CLIENT_CERTIFICATE"),
    )


def _read(path: Path, source: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        line = f"{source}: cannot read {path}: {error.strerror}"
        raise ProblemError([line], BAD_INPUT) from error
