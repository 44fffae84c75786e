"""Ports for servers of the tests, which may run side by side.

Below the range that the kernel gives to outgoing connections, as `atelier up` draws them: else a
connection of somebody's may sit on the port when its server comes, or comes back.
"""

from __future__ import annotations

import random

from atelier.embedded.ports import HOST, RANGE, is_free

_RNG = random.SystemRandom()


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A port for each, which nobody listens on."""
    chosen: set[int] = set()
    while len(chosen) < len(names):
        if is_free(port := _RNG.choice(RANGE)):
            chosen.add(port)
    return dict(zip(names, chosen, strict=True))


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(("one",))["one"]


def free_address() -> str:
    """A loopback address that nobody listens on."""
    return f"{HOST}:{free_port()}"
