"""What reads requests in the gateway, and how it may refuse them: by field, and in any case."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.message import Message

from atelier.catalog import Catalog
from atelier.errors import AtelierError, InvalidArgumentError
from atelier.status import to_status
from atelier.v1 import generation_pb2, preset_pb2
from gateway.presets import preset_violations
from gateway.requests import asked_of, page_of
from tests.support.cards import toy_card, video_card

LARGEST_ANSWER = 8_000  # bytes of an error's details: they travel in trailers
CATALOG = Catalog({"toy": toy_card(), "clips": video_card()})
ID = "019f3c3a-0000-7000-8000-000000000000"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KINDS: tuple[type[Message], ...] = (
    generation_pb2.CreateGenerationRequest,
    generation_pb2.ListGenerationsRequest,
    preset_pb2.Preset,
)


def read(request: Message) -> None:
    """One of KINDS. Anything but silence is a finding."""
    try:
        _read(request)
    except AtelierError as error:
        assert error.code == "INVALID_ARGUMENT" and error.violations, error
        assert all(v.field and v.description for v in error.violations), error
        assert to_status(error).ByteSize() < LARGEST_ANSWER


def _read(request: Message) -> None:
    match request:
        case generation_pb2.CreateGenerationRequest():
            asked = asked_of(
                request,
                catalog=CATALOG,
                tenant="acme",
                new_id=lambda: ID,
                new_seed=lambda: 7,
                now=NOW,
            )
            if not asked.pictures:
                asked.checked()
        case generation_pb2.ListGenerationsRequest():
            page_of(request, "acme")
        case preset_pb2.Preset():
            if bad := preset_violations(request, CATALOG, "acme"):
                raise InvalidArgumentError(bad)
