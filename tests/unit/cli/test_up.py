"""`up` where the terminal has hung up: every write to it fails."""

from __future__ import annotations

import asyncio
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from atelier.cli.up import UpOptions, _Up
from atelier.embedded.stack import StackOptions


class HungUp(StringIO):
    def write(self, _text: str) -> int:
        raise OSError(5, "Input/output error")

    def isatty(self) -> bool:
        return True


class Parts:
    """A supervisor that was asked to stop, or not."""

    stopped = False

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.stopped = True


@pytest.fixture
def up(tmp_path: Path) -> _Up:
    options = UpOptions(tmp_path, StackOptions(), prompt=None, once=False, out=tmp_path)
    return _Up(options, Console(file=HungUp(), force_terminal=True))


async def test_every_part_is_stopped(up: _Up) -> None:
    parts = Parts()
    await up._stop(parts)  # type: ignore[arg-type]
    assert parts.stopped


def test_what_nobody_can_read_is_not_said(up: _Up) -> None:
    up._notice("s3 ended")
    up._complain("s3 did not start", "its log")
