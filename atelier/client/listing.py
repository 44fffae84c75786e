"""Which generations to list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from atelier.client.requests import timestamp
from atelier.v1 import generation_pb2 as pb


def wanted(
    states: Sequence[pb.GenerationState.ValueType],
    model: str,
    labels: Mapping[str, str] | None,
    created_after: datetime | None,
    created_before: datetime | None,
) -> pb.GenerationFilter:
    """Raises ValueError: a time without a time zone."""
    found = pb.GenerationFilter(states=states, model=model, labels=labels)
    if created_after is not None:
        found.created_after.CopyFrom(timestamp(created_after, "created_after"))
    if created_before is not None:
        found.created_before.CopyFrom(timestamp(created_before, "created_before"))
    return found
