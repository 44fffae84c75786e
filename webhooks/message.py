"""What is posted: the body of an event and its signatures (Standard Webhooks). Asks nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from standardwebhooks import Webhook

MAX_BODY_BYTES = 20_000
# What is left out, one after the other, where a body would be larger: a receiver reads the
# generation by its id then.
_SPARE = ("prompt", "negative_prompt", "labels", "results", "failure")


def body_of(kind: str, at: datetime, data: Mapping[str, Any]) -> bytes:
    """JSON, the same in every attempt; `data.left_out` names what it had no room for."""
    kept, left_out = dict(data), list[str]()
    body = _json(kind, at, kept)
    for name in _SPARE:
        if len(body) <= MAX_BODY_BYTES:
            break
        if kept.pop(name, None) is not None:
            left_out.append(name)
            body = _json(kind, at, {**kept, "left_out": left_out})
    return body


def headers_of(
    delivery_id: str, now: datetime, body: bytes, secrets: Sequence[str]
) -> dict[str, str]:
    """Signed by each secret: in a rotation the receiver may know one or the other.

    Args:
        now: of this attempt, in UTC.
    """
    signatures = [Webhook(secret).sign(delivery_id, now, body.decode()) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": "atelier-webhooks",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _json(kind: str, at: datetime, data: Mapping[str, Any]) -> bytes:
    event = {"type": kind, "timestamp": at.isoformat(), "data": data}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
