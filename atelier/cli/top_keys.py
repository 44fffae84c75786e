"""Keys of a terminal: what is typed, as names. No mouse; what ssh and tmux pass on is enough."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "k": "up",
    "\x1b[B": "down", "\x1bOB": "down", "j": "down",
    "\x1b[5~": "page up", "\x1b[6~": "page down", " ": "page down",
    "\x1b[H": "home", "\x1b[1~": "home", "\x1bOH": "home", "g": "home",
    "\x1b[F": "end", "\x1b[4~": "end", "\x1bOF": "end", "G": "end",
    "\r": "enter", "\n": "enter", "\x1b": "escape", "\x7f": "escape",
}  # fmt: skip
_KEY = re.compile(r"\x1b\[[0-9;?]*[A-Za-z~]|\x1bO[A-Za-z]|.", re.DOTALL)


def names(typed: str) -> list[str]:
    """The keys in what was read at once; a letter is its own name, an unknown sequence nothing."""
    keys = (_NAMES.get(key, key) for key in _KEY.findall(typed))
    return [key for key in keys if not key.startswith("\x1b")]


@contextmanager
def typed() -> Iterator[asyncio.Queue[str]]:
    """Keys as they come, without Enter and unseen; the terminal is as it was after the block."""
    descriptor, keys = sys.stdin.fileno(), asyncio.Queue[str]()
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    loop, before = asyncio.get_running_loop(), termios.tcgetattr(descriptor)

    def read() -> None:
        data = os.read(descriptor, 1024)
        if not data:  # the terminal is gone
            loop.remove_reader(descriptor)
            keys.put_nowait("q")
        for key in names(decode(data)):
            keys.put_nowait(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield keys
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
