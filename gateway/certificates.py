"""Callers that are known by their certificate: the URI in it says whose they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.identity import Caller, Context

_URI = "peer_uri"  # gRPC's name for the URIs among the names of a certificate that it has verified
SCOPES = frozenset(("generate", "read"))


def callers_by_uri(
    tenants: Mapping[str, str], admins: Collection[str], house: str
) -> dict[str, Caller]:
    """Who is known by a URI.

    Args:
        tenants: by URI.
        admins: URIs that have the scope admin; those of no tenant have no other, as `house`.
    """
    known = {uri: Caller(tenant, SCOPES) for uri, tenant in tenants.items()}
    for uri in admins:
        other = known.get(uri, Caller(house, frozenset()))
        known[uri] = Caller(other.tenant, other.scopes | {"admin"})
    return known


def caller_of(context: Context, known: Mapping[str, Caller]) -> Caller | None:
    """Whose a call is by its certificate; None where it shows none, or one of nobody's.

    Args:
        known: by URI.
    """
    shown = context.auth_context().get(_URI, ()) if known else ()
    for uri in shown:
        if who := known.get(uri.decode(errors="replace")):
            return who
    return None
