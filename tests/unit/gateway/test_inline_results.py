"""What a caller is told of results whose files cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from atelier.errors import NotFoundError, UnavailableError
from atelier.v1 import generation_pb2 as pb
from gateway.results import Results


class BrokenStore:
    """Signs URLs, and reads nothing."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def calls_to_presign(self, key: str) -> bool:
        return False

    def presign(self, key: str, seconds: int) -> tuple[str, datetime]:
        return f"http://store/{key}", datetime(2026, 1, 1, tzinfo=UTC)

    def get(self, key: str) -> bytes:
        raise self.error


@pytest.mark.parametrize("error", [NotFoundError("gone"), UnavailableError("away")])
async def test_a_file_that_cannot_be_read_does_not_hide_the_generation(error: Exception) -> None:
    result = pb.Result(index=0, object_key="results/local/g/1/0.png", size_bytes=10)
    results = Results(BrokenStore(error), 60)  # type: ignore[arg-type]
    told = await results.complete(pb.Generation(id="g", results=[result]), inline=True)
    assert told.results[0].url == "http://store/results/local/g/1/0.png"
    assert told.results[0].inline_data == b""
