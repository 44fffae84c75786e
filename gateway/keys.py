"""API keys at the door: what a call shows in `authorization: Bearer KEY`, and whose it is.

Keys lie in the database, which a gateway has no line to: it asks the scheduler, and remembers the
answer for KNOWN_SECONDS (UNKNOWN_SECONDS where there is no such key). So a key that is revoked is
taken for KNOWN_SECONDS more at most; one that expires, not a moment. Nothing is remembered for
longer while the scheduler is away: a bound that holds only in good weather is none. Calls that show
one key wait for one look-up, which outlives each of them.

That an id was there is remembered beyond that: its next look-up is not one of those that key_tries
counts, so that who makes keys up keeps out nobody who was known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from atelier.api_keys import ShownKey, read_key
from atelier.errors import PermissionDeniedError, UnauthenticatedError
from gateway.certificates import caller_of
from gateway.identity import Caller, Context
from gateway.key_tries import KeyTries, address_of
from gateway.scopes import EVERYBODY, is_of_keys, scope_of

KNOWN_SECONDS, UNKNOWN_SECONDS = 10.0, 1.0
MOST_REMEMBERED = 10_000
MOST_LOOKED_UP = 500  # at once, beyond which none that is new here is

_NOBODY = bytes(32)  # compared with where there is no such key, so that this takes as long


@dataclass(frozen=True)
class Found:
    """What a key's id stands for."""

    caller: Caller
    secret_hash: bytes
    expire_time: datetime | None
    revoked: bool


Find = Callable[[str], Awaitable[Found | None]]


class Keys:
    """Who calls, by the key that a call shows.

    Args:
        find: what the scheduler knows of a key's id.
        without: who a call without a key or a certificate is; None: it is refused. What is about
            keys takes one all the same: who reaches a gateway does not make himself a key.
        certificates: whose calls are by the URI of a certificate.
        own: ids that cost nobody a look-up.
        tries: of keys that are not known.
    """

    def __init__(
        self,
        find: Find,
        *,
        without: Caller | None = None,
        certificates: Mapping[str, Caller] | None = None,
        own: Container[str] = (),
        tries: KeyTries | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._find = find
        self._without = without
        self._certificates = certificates or {}
        self._own = own
        self._tries = tries or KeyTries(clock=clock)
        self._clock = clock
        self._wall = wall
        self._found: dict[str, tuple[float, Found]] = {}  # the eldest look-up first; and until when
        self._unknown: dict[str, float] = {}  # until when
        self._under_way: dict[str, asyncio.Task[Found | None]] = {}

    async def identify(self, method: str, context: Context) -> Caller | None:
        """Whose call it is; None where everybody may call it.

        Raises:
            UnauthenticatedError: its key is missing, or not good any more.
            PermissionDeniedError: the key has not the scope that the method takes.
            TriedTooOftenError: the key was not looked at.
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
        known = self._is_known(key.id)
        if not known:
            self._begin(key.id, address_of(context.peer()))
        found = await self._look_up(key.id)
        same = key.is_that_of(found.secret_hash if found else _NOBODY)
        if found is None or not same:
            if known:  # or who has used up his tries were told which ids there are
                self._begin(key.id, address_of(context.peer()))
            self._tries.wrong()
            raise UnauthenticatedError(
                "nobody has this API key: look at which one you show", reason="API_KEY_UNKNOWN"
            )
        if not known:
            self._tries.good(key.id, address_of(context.peer()))
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

    def _is_known(self, key_id: str) -> bool:
        return key_id in self._found or key_id in self._own

    def _begin(self, key_id: str, address: str) -> None:
        if len(self._under_way) >= MOST_LOOKED_UP and key_id not in self._under_way:
            self._tries.refuse(UNKNOWN_SECONDS)
        self._tries.begin(key_id, address)

    async def _look_up(self, key_id: str) -> Found | None:
        now = self._clock()
        until, found = self._found.get(key_id, (0.0, None))
        if now < until:
            return found
        if now < self._unknown.get(key_id, 0.0):
            return None
        task = self._under_way.get(key_id)
        if task is None:
            task = self._under_way[key_id] = asyncio.create_task(self._ask(key_id))
            task.add_done_callback(lambda done: self._asked(key_id, done))
        return await asyncio.shield(task)

    async def _ask(self, key_id: str) -> Found | None:
        now = self._clock()  # before it is asked: what is revoked meanwhile is forgotten in time
        found = await self._find(key_id)
        self._found.pop(key_id, None)
        if found:
            if len(self._found) >= MOST_REMEMBERED:
                del self._found[next(iter(self._found))]
            self._found[key_id] = now + KNOWN_SECONDS, found
            return found
        for other in [other for other, until in self._unknown.items() if until <= now]:
            del self._unknown[other]
        self._unknown[key_id] = now + UNKNOWN_SECONDS
        return None

    def _asked(self, key_id: str, task: asyncio.Task[Found | None]) -> None:
        del self._under_way[key_id]
        if not task.cancelled():
            task.exception()  # told to who waits for it, if anybody still does


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
