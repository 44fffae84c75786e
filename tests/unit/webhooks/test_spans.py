"""What a trace tells of a delivery."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from webhooks.outbox import Due
from webhooks.schedule import Answer
from webhooks.spans import span_of

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DUE = Due(
    id="d", tenant="acme", generation_id="g", webhook_id="w", kind="generation.succeeded",
    url="https://hooks.example.org/", enabled=True, secrets=["whsec_"], data={}, attempts=0,
    create_time=NOW, trace_parent="", tries=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(204, ""), ""),
        (Answer(400, "you sent: a prompt of theirs"), "400"),  # its words may be ours
        (Answer(0, "no answer: refused"), "no answer: refused"),  # our own words
    ],
)
def test_why_it_failed_is_told_and_not_what_the_receiver_said(answer: Answer, error: str) -> None:
    assert span_of(DUE, answer, NOW, NOW, None).error == error
