"""What is posted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from webhooks.message import MAX_BODY_BYTES, body_of, headers_of

NOW = datetime(2026, 11, 23, 12, 0, 0, 600_000, tzinfo=UTC)
OLD, NEW = "whsec_" + "b2xkb2xk" * 6, "whsec_" + "bmV3bmV3" * 6


def test_either_secret_of_a_rotation_verifies() -> None:
    now = datetime.now(UTC)
    body = body_of("generation.succeeded", NOW, {"id": "x", "labels": {"é": "钥"}})
    headers = headers_of("some-id", now, body, [NEW, OLD])
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(body, headers)["data"]["labels"] == {"é": "钥"}
    assert headers["webhook-id"] == "some-id"
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "b3RoZXJz" * 6).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(body + b" ", headers)
    old = headers_of("some-id", now - timedelta(minutes=10), body, [NEW])
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(body, old)


def test_the_same_event_is_the_same_bytes() -> None:
    first, second = (body_of("webhook.test", NOW, {}) for _ in range(2))
    assert first == second
    assert json.loads(first) == {"type": "webhook.test", "timestamp": NOW.isoformat(), "data": {}}


def test_what_is_too_large_loses_what_can_be_spared() -> None:
    small = {"id": "x", "state": "SUCCEEDED"}
    labels = {f"{n}": "é" * 255 for n in range(16)}
    results = [{"object_key": f"results/{n}" * 40} for n in range(200)]
    data = {**small, "prompt": "é" * 4_000, "negative_prompt": "钥" * 4_000, "labels": labels}
    body = body_of("generation.succeeded", NOW, data)
    left_out = ["prompt", "negative_prompt"]
    assert json.loads(body)["data"] == {**small, "labels": labels, "left_out": left_out}
    assert len(body) <= MAX_BODY_BYTES
    told = json.loads(body_of("generation.succeeded", NOW, {**data, "results": results}))["data"]
    assert told["left_out"] == ["prompt", "negative_prompt", "labels", "results"]
    assert told["id"] == "x"
