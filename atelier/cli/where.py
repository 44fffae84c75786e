"""Which stack a command speaks to, and by what line."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from atelier import rpc
from atelier.cli.problems import ProblemError, of_call
from atelier.embedded.state import StateDir


def gateway_address(address: str | None, state_dir: Path) -> str:
    """The address that was given, else the gateway of the stack that runs in `state_dir`.

    Raises:
        ProblemError: there is none.
    """
    if address:
        return address
    record = StateDir(state_dir).read()
    if record is None or not record.is_alive():
        raise ProblemError(
            [
                f"nothing runs in {state_dir}",
                "start it with `atelier up`, or name a gateway with --address",
            ]
        )
    return record.gateway


@asynccontextmanager
async def line_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A line to a gateway. What a call in the block ends with becomes a ProblemError."""
    async with rpc.channel(address) as line:
        try:
            yield line
        except grpc.aio.AioRpcError as error:
            raise of_call(error, address) from error


def program(name: str) -> str:
    """How a person would call a program of this environment from here."""
    beside = Path(sysconfig.get_path("scripts")) / name
    if shutil.which(name) == str(beside) or not beside.exists():
        return name
    near = os.path.relpath(beside)
    return str(beside) if near.startswith("..") else near
