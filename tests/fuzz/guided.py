"""`make fuzz-guided`: bytes that libFuzzer makes up, led by what of our checks they reach, given to
what reads requests in the gateway, in this process: anything but a refusal by field is a finding.

Atheris has 35 MB, so it is no dependency: make puts it into build/atheris. Where it finds something
it ends with a status that is not 0, and the bytes are in a file `crash-...`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import atheris

with atheris.instrument_imports(include=["atelier", "gateway"]):
    from atelier.errors import AtelierError, InvalidArgumentError
    from atelier.status import to_status
    from gateway.presets import preset_violations
    from gateway.requests import asked_of, page_of

from google.protobuf.message import DecodeError

from atelier.catalog import Catalog
from atelier.v1 import generation_pb2, preset_pb2
from tests.support.cards import toy_card, video_card

LARGEST_ANSWER = 8_000  # bytes of an error's details: they travel in trailers
CATALOG = Catalog({"toy": toy_card(), "clips": video_card()})
ID = "019f3c3a-0000-7000-8000-000000000000"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def creates(data: bytes) -> None:
    request = generation_pb2.CreateGenerationRequest.FromString(data)
    asked = asked_of(
        request, catalog=CATALOG, tenant="acme", new_id=lambda: ID, new_seed=lambda: 7, now=NOW
    )
    if not asked.pictures:
        asked.checked()


def lists(data: bytes) -> None:
    page_of(generation_pb2.ListGenerationsRequest.FromString(data), "acme")


def writes_a_preset(data: bytes) -> None:
    preset = preset_pb2.Preset.FromString(data)
    if bad := preset_violations(preset, CATALOG, "acme"):
        raise InvalidArgumentError(bad)


READERS = (creates, lists, writes_a_preset)


def one(data: bytes) -> None:
    """The first byte says whose request the others are."""
    if not data:
        return
    try:
        READERS[data[0] % len(READERS)](data[1:])
    except DecodeError:
        return  # told as UNREADABLE
    except AtelierError as error:
        assert error.code == "INVALID_ARGUMENT" and error.violations, error
        assert all(v.field and v.description for v in error.violations), error
        assert to_status(error).ByteSize() < LARGEST_ANSWER


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
