"""Callers that are known by their certificate: the URI in it says whose they are."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.identity import Caller, Context

_URI = "peer_uri"  # gRPC's name for the URIs among the names of a certificate that it has verified
SCOPES = frozenset(("generate", "read"))  # what is done with "admin" takes a key


def caller_of(context: Context, tenants: Mapping[str, str]) -> Caller | None:
    """Whose a call is by its certificate; None where it shows none, or one of nobody's.

    Args:
        tenants: by URI.
    """
    shown = context.auth_context().get(_URI, ()) if tenants else ()
    for uri in shown:
        if tenant := tenants.get(uri.decode(errors="replace")):
            return Caller(tenant, SCOPES)
    return None
