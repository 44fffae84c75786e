"""Requests about webhooks: everything that is wrong is found here, all at once, by field. Pure."""

from __future__ import annotations

from uuid import UUID

from atelier.errors import Violation, refuse
from atelier.generation import FINAL
from atelier.translate import state_from, state_to
from atelier.v1 import generation_pb2
from atelier.v1 import webhook_pb2 as pb

DEFAULT_PAGE, MAX_PAGE = 50, 1_000
MAX_DESCRIPTION = 200
DEFAULT_OVERLAP, MAX_OVERLAP = 86_400, 604_800  # seconds
ALL_EVENTS = tuple(sorted(state_to(state) for state in FINAL))


def webhook_violations(
    message: pb.CreateWebhookRequest | pb.UpdateWebhookRequest,
) -> list[Violation]:
    """What is wrong with it but for its URL."""
    bad = []
    if any((state := state_from(number)) is None or not state.final for number in message.events):
        told = ", ".join(generation_pb2.GenerationState.Name(number) for number in ALL_EVENTS)
        bad.append(Violation("events", f"must be final states: {told}"))
    if len(message.description) > MAX_DESCRIPTION or "\0" in message.description:
        bad.append(
            Violation(
                "description", f"must be at most {MAX_DESCRIPTION} characters, none of them NUL"
            )
        )
    return bad


def id_of(text: str, field: str = "id") -> str:
    """An id as it is stored.

    Raises:
        InvalidArgumentError: it is none.
    """
    refuse(id_violations(text, field))
    return str(UUID(text))


def id_violations(text: str, field: str) -> list[Violation]:
    """What is wrong with an id. Python would take hyphens anywhere, the database does not."""
    try:
        if str(UUID(text)) == text.lower():
            return []
    except ValueError:
        pass
    return [Violation(field, "must be an id that this service gave (a UUID)")]


def overlap_of(request: pb.RotateSecretRequest) -> int:
    """Seconds.

    Raises:
        InvalidArgumentError: too many, or fewer than none.
    """
    if not request.HasField("overlap_seconds"):
        return DEFAULT_OVERLAP
    if not 0 <= request.overlap_seconds <= MAX_OVERLAP:
        text = f"must be 0 to {MAX_OVERLAP} seconds; got {request.overlap_seconds}"
        refuse([Violation("overlap_seconds", text)])
    return request.overlap_seconds


def page_size_of(request: pb.ListDeliveriesRequest) -> int:
    """Checks all of the request.

    Raises:
        InvalidArgumentError: what is wrong with it.
    """
    bad = []
    if not 0 <= request.page_size <= MAX_PAGE:
        bad.append(Violation("page_size", f"must be 0 to {MAX_PAGE}; got {request.page_size}"))
    for field in ("webhook_id", "generation_id"):
        if text := getattr(request, field):
            bad += id_violations(text, field)
    if request.page_token and id_violations(request.page_token, "page_token"):
        bad.append(Violation("page_token", "is not one that ListDeliveries gave"))
    refuse(bad)
    return request.page_size or DEFAULT_PAGE
