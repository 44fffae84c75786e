"""Whatever message a caller makes up, what reads it in the gateway takes it or names the fields at
fault. The fuzzer's generator with Hypothesis for its chance: what fails here is made smaller, and
printed as bytes (tests/fuzz sends far more of them through the wire)."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from atelier.catalog import Catalog
from atelier.errors import InvalidArgumentError
from atelier.status import to_status
from atelier.v1 import generation_pb2, preset_pb2
from gateway.presets import preset_violations
from gateway.requests import asked_of, page_of
from tests.fuzz.messages import MOODS, message
from tests.fuzz.values import Seen
from tests.support.cards import toy_card, video_card

LARGEST_ANSWER = 8_000  # bytes of an error's details: they travel in trailers
CATALOG = Catalog({"toy": toy_card(), "clips": video_card()})
ID = "019f3c3a-0000-7000-8000-000000000000"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def read(request: Message) -> None:
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


@pytest.mark.parametrize(
    "kind",
    [
        generation_pb2.CreateGenerationRequest,
        generation_pb2.ListGenerationsRequest,
        preset_pb2.Preset,
    ],
)
def test_it_is_taken_or_its_fields_are_named(kind: type[Message]) -> None:
    described: Any = kind.DESCRIPTOR  # two classes to the stubs

    @settings(
        max_examples=100,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.randoms(use_true_random=False), st.sampled_from(sorted(MOODS)))
    def one(rng: Random, mood: str) -> None:
        request = message(rng, described, Seen(), MOODS[mood])
        note(f"{kind.__name__}.FromString({request.SerializeToString()!r})")
        try:
            read(request)
        except InvalidArgumentError as error:
            assert error.violations
            assert all(v.field and v.description for v in error.violations), error
            assert to_status(error).ByteSize() < LARGEST_ANSWER

    one()
