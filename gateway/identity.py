"""Who calls: settled once, before a call gets to its servicer, which asks `caller()`.

A context variable holds it. gRPC runs every call in a task of its own, and a task has a context of
its own, so no call sees another's; threads of an executor do not inherit it, so whoever goes there
takes the tenant along. Where nobody settled it, `caller()` raises: nothing is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import structlog

from atelier.errors import QuotaExceededError
from atelier.plan import FULL_AGAIN_SECONDS, MOST_STREAMS
from atelier.rpc import Handle, OncePerMethod, answers_of
from atelier.spans import parent_of

Context: TypeAlias = grpc.aio.ServicerContext


@dataclass(frozen=True)
class Caller:
    """Whose call it is. key_id: of the API key that it showed; empty: none was asked for."""

    tenant: str
    scopes: frozenset[str]
    key_id: str = ""

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes


Identify: TypeAlias = Callable[[str, Context], Awaitable[Caller | None]]

_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Whose call is being answered.

    Raises:
        LookupError: nobody asked; a fault of ours.
    """
    return _caller.get()


class IdentityInterceptor(OncePerMethod):
    """Inside ErrorInterceptor, which tells the caller why it was refused.

    identify: who calls a method (its full name); None where everybody may. It raises for others.
    most_streams: that one tenant may have open here at a time; of those whom nobody asks who they
        are, all together.
    """

    def __init__(self, identify: Identify, most_streams: int = MOST_STREAMS) -> None:
        super().__init__()
        self._identify = identify
        self._most_streams = most_streams
        self._streams: Counter[str] = Counter()  # open, by tenant

    def unary(self, handle: Handle, method: str) -> Handle:
        async def known(request: Any, context: Context) -> Any:
            await self._settle(method, context)
            return await handle(request, context)

        return known

    def stream(self, handle: Handle, method: str) -> Handle:
        async def known(request: Any, context: Context) -> AsyncIterator[Any]:
            who = await self._settle(method, context)
            with self._one_more(who.tenant if who else ""):
                async with aclosing(answers_of(handle, request, context)) as answers:
                    async for answer in answers:
                        yield answer

        return known

    @contextmanager
    def _one_more(self, tenant: str) -> Iterator[None]:
        """Around a stream: each holds memory for as long as its caller likes, read or not."""
        if self._streams[tenant] >= self._most_streams:
            raise QuotaExceededError(
                tenant,
                "streams",
                f"{self._most_streams} streams of yours are open at this gateway already: close"
                " some, look by GetGeneration, or have webhooks tell you",
                retry_after_seconds=FULL_AGAIN_SECONDS,
            )
        self._streams[tenant] += 1
        try:
            yield
        finally:
            self._streams[tenant] -= 1
            if not self._streams[tenant]:
                del self._streams[tenant]

    async def _settle(self, method: str, context: Context) -> Caller | None:
        who = await self._identify(method, context)
        if who:
            _caller.set(who)
            parent = parent_of(trace_parent(context))
            trace = {"trace_id": f"{parent.trace_id:032x}"} if parent else {}
            structlog.contextvars.bind_contextvars(tenant=who.tenant, **trace)
        return who


def trace_parent(context: Context) -> str:
    """The caller's span, as it sent it; empty where it sent none that can be read."""
    sent = next((v for k, v in context.invocation_metadata() or () if k == "traceparent"), "")
    return str(sent) if parent_of(str(sent)) else ""
