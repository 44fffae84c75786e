"""Whatever message a caller makes up, what reads it in the gateway takes it or names the fields at
fault. The fuzzer's generator with Hypothesis for its chance: what fails here is made smaller, and
printed as bytes (tests/fuzz sends far more of them through the wire)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.fuzz.messages import MOODS, message
from tests.fuzz.readers import KINDS, read
from tests.fuzz.values import Seen


@pytest.mark.parametrize("kind", KINDS)
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
        read(request)

    one()
