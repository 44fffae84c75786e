"""Who speaks to the scheduler, where its lines are encrypted: a gateway, or an agent.

Each shows a certificate of the house's own authority, with a URI that says what it is:
IDENTITY/gateway, or IDENTITY/agent/NODE. The authority alone would not do: with an agent's
certificate, which lies on every GPU's machine, one could read what all tenants have. Common names
and metadata say nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import structlog

from atelier.errors import UnavailableError
from atelier.rpc import Handle, OncePerMethod, answers_of

log = structlog.get_logger()

Context: TypeAlias = grpc.aio.ServicerContext

OF_AGENTS = "/atelier.v1.AgentService/"
OF_ALL = "/grpc.health.v1.Health/"
_URI = "peer_uri"  # gRPC's name for the URIs among the names of a certificate that it has verified


class Peers(OncePerMethod):
    """Refuses calls that are not the caller's to make.

    identity: what the URIs of this house's parts begin with, without a slash at its end.
    """

    def __init__(self, identity: str) -> None:
        super().__init__()
        self._gateway = f"{identity}/gateway"
        self._agent = f"{identity}/agent/"

    def check_node(self, node: str, context: Context) -> None:
        """An agent speaks for its own node.

        Raises:
            UnavailableError: it does not.
        """
        if self._agent + node not in _shown(context):
            raise _refused(self._agent + node, context)

    def unary(self, handle: Handle, method: str) -> Handle:
        async def known(request: Any, context: Context) -> Any:
            self._check(method, context)
            return await handle(request, context)

        return known

    def stream(self, handle: Handle, method: str) -> Handle:
        async def known(request: Any, context: Context) -> AsyncIterator[Any]:
            self._check(method, context)
            async with aclosing(answers_of(handle, request, context)) as answers:
                async for answer in answers:
                    yield answer

        return known

    def _check(self, method: str, context: Context) -> None:
        if method.startswith(OF_ALL):
            return
        shown = _shown(context)
        if method.startswith(OF_AGENTS):
            if not any(uri.startswith(self._agent) for uri in shown):
                raise _refused(f"{self._agent}NODE", context)
        elif self._gateway not in shown:
            raise _refused(self._gateway, context)


def _shown(context: Context) -> list[str]:
    return [uri.decode(errors="replace") for uri in context.auth_context().get(_URI, ())]


def _refused(wanted: str, context: Context) -> UnavailableError:
    """Told to the part without names, for a gateway hands it on to its callers: nothing that they
    sent is wrong, and it passes when an operator has mended the certificate."""
    log.warning("peer refused", wanted=wanted, shown=_shown(context))
    return UnavailableError(
        "the scheduler does not take this part's certificate: its log tells why",
        reason="PEER_REFUSED",
    )
