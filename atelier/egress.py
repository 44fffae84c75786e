"""Going where callers send us, and nowhere else: a name is looked up once, all of its addresses are
checked, and who connects, connects to one of those. The same when a URL is told to us and each time
that it is used: a name may have other addresses by then (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from atelier.addresses import RefusedError, Rules, Target

LOOKUP_SECONDS = 5.0

Lookup = Callable[[str, int], Awaitable[list[str]]]


async def lookup(host: str, port: int) -> list[str]:
    """Every address that the system's resolver knows, those of IPv4 first.

    Raises:
        OSError: it knows none.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Egress:
    """By the operator's rules."""

    def __init__(self, rules: Rules, lookup: Lookup = lookup) -> None:
        self.rules = rules
        self._lookup = lookup

    async def resolve(self, url: str) -> tuple[Target, list[str]]:
        """Where a URL leads, and the addresses that may be connected to.

        Raises:
            RefusedError: nowhere that we go; or nobody knows.
        """
        target = self.rules.target(url)
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                addresses = await self._lookup(target.host, target.port)
        except (OSError, UnicodeError, TimeoutError):
            raise RefusedError from None
        self.rules.check(addresses)
        return target, addresses


PUBLIC_ONLY = Egress(Rules())
