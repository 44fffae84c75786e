"""Ports that stay the same from run to run.

Chosen below the range that the kernel gives to outgoing connections, so that no connection of
somebody else's sits on a part's port while the part restarts.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random

from atelier.embedded.part import PartError
from atelier.embedded.state import write_json

HOST = "127.0.0.1"
RANGE = range(20_000, 32_000)
_TRIES = 200
_SHARES = 16


def share_of(pid: int) -> range:
    """Where a process looks for ports first: those that start at once look in different places.

    Between a look and the part that then listens, somebody else may find the same port free.
    """
    size = len(RANGE) // _SHARES
    return RANGE[pid % _SHARES * size :][:size]


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class PortBook:
    """Remembers in a file which port each part has."""

    def __init__(
        self,
        path: Path,
        rng: Random,
        free: Callable[[int], bool] = is_free,
        first: range = RANGE,
    ) -> None:
        """`first`: where to look before all of RANGE."""
        self._path = path
        self._rng = rng
        self._free = free
        self._first = first
        self._ports = _read(path)

    def take(self, name: str, wanted: int | None = None) -> int:
        """A free port for `name`: the one that is wanted, else the one it had, else a new one.

        Raises:
            PartError: the wanted port is taken.
        """
        if wanted is not None:
            others = {port for other, port in self._ports.items() if other != name}
            if wanted in others or not self._free(wanted):
                raise PartError(f"port {wanted} is taken: give {name} another, or none")
            port = wanted
        else:
            had = self._ports.get(name)
            port = had if had is not None and self._free(had) else self._draw()
        self._ports[name] = port
        return port

    def save(self) -> None:
        write_json(self._path, self._ports)

    def _draw(self) -> int:
        taken = set(self._ports.values())
        for tried in range(_TRIES):
            port = self._rng.choice(self._first if tried < _TRIES // 2 else RANGE)
            if port not in taken and self._free(port):
                return port
        raise PartError(f"no free port found between {RANGE.start} and {RANGE.stop}")


def _read(path: Path) -> dict[str, int]:
    """What was remembered; nothing where the file makes no sense, for ports can be drawn again."""
    try:
        return {str(name): int(port) for name, port in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
