"""Generations for tests."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime

from atelier.generation import Generation, Provenance, Result, new_id
from atelier.spec import ImageSpec

_COUNTER = itertools.count()
SPEC = ImageSpec("a red circle", "", 64, 64, 4, 1.5, 7, 1, "ddim")
RESULT = Result(0, "results/k.png", "image/png", 10, 64, 64, "ab" * 32, 7)
BY = Provenance("sha256:0", "onnxruntime", "ddim", "d0")


def generation(**changes: object) -> Generation:
    """A queued one, newer than all before."""
    values = {
        "id": new_id(time.time() + next(_COUNTER) / 1000, next(_COUNTER)),
        "tenant": "local",
        "model": "toy",
        "spec": SPEC,
        "create_time": datetime.now(UTC),
        "request_hash": b"h",
    }
    return Generation(**{**values, **changes})  # type: ignore[arg-type]
