"""API keys at the door: what a call shows in `authorization: Bearer KEY`, and whose it is.

Keys lie in the database, which a gateway has no line to: it asks the scheduler, and remembers the
answer for KNOWN_SECONDS (UNKNOWN_SECONDS where there is no such key). So a key that is revoked is
taken for KNOWN_SECONDS more at most; one that expires, not a moment. Nothing is remembered for
longer while the scheduler is away: a bound that holds only in good weather is none.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from atelier.api_keys import ShownKey, read_key
from atelier.errors import PermissionDeniedError, UnauthenticatedError
from gateway.certificates import caller_of
from gateway.identity import Caller, Context
from gateway.scopes import EVERYBODY, is_of_keys, scope_of

KNOWN_SECONDS, UNKNOWN_SECONDS = 10.0, 1.0
MOST_REMEMBERED = 10_000

_NOBODY = bytes(32)  # compared with where there is no such key, so that this takes as long


@dataclass(frozen=True)
class Found:
    """What a key's id stands for."""

    caller: Caller
    secret_hash: bytes
    expire_time: datetime | None
    revoked: bool


Find = Callable[[str, Context], Awaitable[Found | None]]


class Keys:
    """Who calls, by the key that a call shows.

    Args:
        find: what the scheduler knows of a key's id.
        without: who a call without a key or a certificate is; None: it is refused. What is about
            keys takes one all the same: who reaches a gateway does not make himself a key.
        certificates: whose calls are by the URI of a certificate.
    """

    def __init__(
        self,
        find: Find,
        *,
        without: Caller | None = None,
        certificates: Mapping[str, Caller] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._find = find
        self._without = without
        self._certificates = certificates or {}
        self._clock = clock
        self._wall = wall
        self._remembered: dict[str, tuple[float, Found | None]] = {}

    async def identify(self, method: str, context: Context) -> Caller | None:
        """Whose call it is; None where everybody may call it.

        Raises:
            UnauthenticatedError: its key is missing, or not good any more.
            PermissionDeniedError: the key has not the scope that the method takes.
        """
        scope = scope_of(method)
        if scope == EVERYBODY:
            return None
        sent = [str(v) for k, v in context.invocation_metadata() or () if k == "authorization"]
        known = None if sent else caller_of(context, self._certificates)
        if not sent and known is None and not is_of_keys(method):
            known = self._without
        who = known or await self._whose(shown(sent), context)
        if scope not in who.scopes:
            raise PermissionDeniedError(scope, f"to call {method}")
        return who

    async def _whose(self, key: ShownKey, context: Context) -> Caller:
        found = await self._look_up(key.id, context)
        same = key.is_that_of(found.secret_hash if found else _NOBODY)
        if found is None or not same:
            raise UnauthenticatedError(
                "nobody has this API key: look at which one you show", reason="API_KEY_UNKNOWN"
            )
        if found.revoked:
            raise UnauthenticatedError(
                f"the key {key.id} was revoked: ask an operator for another",
                reason="API_KEY_REVOKED",
            )
        if found.expire_time and found.expire_time <= self._wall():
            raise UnauthenticatedError(
                f"the key {key.id} has expired: ask an operator for another",
                reason="API_KEY_EXPIRED",
            )
        return found.caller

    async def _look_up(self, key_id: str, context: Context) -> Found | None:
        now = self._clock()
        until, found = self._remembered.get(key_id, (now, None))
        if now < until:
            return found
        found = await self._find(key_id, context)
        # From before it was asked: what was revoked since is forgotten in time.
        until = now + (KNOWN_SECONDS if found else UNKNOWN_SECONDS)
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered = _unforgotten(self._remembered, now)
        if len(self._remembered) < MOST_REMEMBERED:
            self._remembered[key_id] = until, found
        return found


def shown(sent: list[str]) -> ShownKey:
    """The key among what a call sent as `authorization`.

    Raises:
        UnauthenticatedError: none, or something that is no key.
    """
    if not sent:
        raise UnauthenticatedError(
            'this takes an API key: send it as metadata, "authorization: Bearer KEY"'
        )
    scheme, _, text = sent[0].partition(" ")
    key = read_key(text.strip()) if scheme.lower() == "bearer" and len(sent) == 1 else None
    if key is None:
        raise UnauthenticatedError(
            'what was sent is no API key, or not all of one: send one "authorization: Bearer KEY",'
            " as it was told when the key was made",
            reason="API_KEY_GARBLED",
        )
    return key


def _unforgotten(
    remembered: Mapping[str, tuple[float, Found | None]], now: float
) -> dict[str, tuple[float, Found | None]]:
    return {key: value for key, value in remembered.items() if now < value[0]}
