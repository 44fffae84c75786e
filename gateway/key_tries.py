"""How often keys may be tried that nobody has.

A key that this gateway has not seen good must be asked for, and whoever makes keys up makes each
another: without a bound he would have every gateway flood the scheduler and its database. So each
wrong try costs a token of its address's and one of the gateway's; a try whose key turns out good is
given them back. Where there is none left the key is not looked at.

Keys that this gateway has seen before do not come here, so a flood holds back nobody who was there
before it. A good key that is new here meanwhile is held back only where it shares its address with
the flood, or where that comes from so many that all together reach EVERYBODY_A_SECOND: then it is
taken at one of its next tries.

A wrong secret with an id that there is costs as much, and is told the same, as an id that there is
not. Addresses cost no memory: one is kept only while its bucket is not full, and each token taken
from one is taken from the gateway's as well.

Refused: to count by key, which who tries draws anew; to ask the scheduler for all ids that there
are, which the flood would have it tell again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

import structlog
from opentelemetry.metrics import Meter

from atelier.buckets import Bucket, bucket_of, soon
from atelier.errors import ResourceExhaustedError
from atelier.instruments import KEY_TRIES
from atelier.metrics import counter
from atelier.seldom import Seldom

log = structlog.get_logger()

ADDRESS_A_SECOND, ADDRESS_BURST = 20.0, 100.0
EVERYBODY_A_SECOND, EVERYBODY_BURST = 100.0, 200.0
AGAIN_SECONDS = 1.0  # for so long a key's next tries are the same one


class TriedTooOftenError(ResourceExhaustedError):
    """Not looked at. Each is counted; the log has a line a second."""

    reason = "KEYS_TRIED_TOO_OFTEN"
    in_log = False

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(
            "too many keys that nobody has were shown, from your address or in all: yours is new"
            " here, and was not looked at. Try again",
            retry_after_seconds=retry_after_seconds,
        )


class KeyTries:
    """At one gateway. `clock`: seconds that never go back."""

    def __init__(
        self, meter: Meter | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._all = Bucket(EVERYBODY_A_SECOND, EVERYBODY_BURST, EVERYBODY_BURST, clock())
        self._of: dict[str, Bucket] = {}  # by address
        self._tried: dict[str, float] = {}  # until when by id, the eldest first
        self._seldom = Seldom()
        self._count = counter(meter, KEY_TRIES) if meter else None

    def begin(self, key_id: str, address: str) -> None:
        """Somebody shows a key that is not known to be good.

        Raises:
            TriedTooOftenError: it is not to be looked at.
        """
        now = self._clock()
        self._forget(now)
        if key_id in self._tried:
            return
        buckets = [self._all]
        if self._all.fill(now) >= 1 and address:
            buckets.append(self._bucket_of(address, now))
        if wait := max(0.0 if one.fill(now) >= 1 else one.seconds_until(1.0) for one in buckets):
            self.refuse(wait)
        for bucket in buckets:
            bucket.level -= 1
        self._tried[key_id] = now + AGAIN_SECONDS

    def good(self, key_id: str, address: str) -> None:
        """It is one: what its try took is given back."""
        if self._tried.pop(key_id, None) is None:
            return
        now = self._clock()
        buckets = [self._all, *([self._bucket_of(address, now)] if address else ())]
        for bucket in buckets:
            bucket.level = min(bucket.capacity, bucket.level + 1)

    def wrong(self) -> None:
        """Nobody has it."""
        if self._count:
            self._count.add(1, {"outcome": "wrong"})

    def refuse(self, wait_seconds: float) -> None:
        """Raises TriedTooOftenError."""
        if self._count:
            self._count.add(1, {"outcome": "refused"})
        if calls := self._seldom.count(self._clock()):
            log.warning("keys tried too often", calls_not_looked_at=calls)
        raise TriedTooOftenError(soon(wait_seconds))

    def _bucket_of(self, address: str, now: float) -> Bucket:
        return bucket_of(self._of, address, ADDRESS_A_SECOND, ADDRESS_BURST, now)

    def _forget(self, now: float) -> None:
        while self._tried and self._tried[eldest := next(iter(self._tried))] <= now:
            del self._tried[eldest]


def address_of(peer: str) -> str:
    """Where a call is from, by what gRPC says (`ipv4:192.0.2.7:4711`).

    Returns:
        An IPv4 address, or the first half of an IPv6 one, which is what one caller has. Empty
        where callers cannot be told apart: on loopback there is a balancer, or everybody.
    """
    host = unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return ""
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)
