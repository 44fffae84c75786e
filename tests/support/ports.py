"""Ports for servers of the tests, which run side by side.

Below those of `atelier up`, and below the range that the kernel gives to outgoing connections: else
a connection of somebody's may sit on the port when its server comes, or comes back. Each worker of
pytest has a part to itself: two that draw from all will draw the same one some day, both before
anybody listens there.
"""

from __future__ import annotations

import os
import random

from atelier.embedded.ports import HOST, is_free

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % 8
_MINE = range(10_000, 20_000)[_WORKER * 1_250 :][:1_250]
_RNG = random.SystemRandom()


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A port for each, which nobody listens on."""
    chosen: set[int] = set()
    while len(chosen) < len(names):
        if is_free(port := _RNG.choice(_MINE)):
            chosen.add(port)
    return dict(zip(names, chosen, strict=True))


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(("one",))["one"]


def free_address() -> str:
    """A loopback address that nobody listens on."""
    return f"{HOST}:{free_port()}"
