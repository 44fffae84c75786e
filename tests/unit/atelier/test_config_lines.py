"""What is wrong with settings is told by name, and never with what they are."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError

from atelier.config import (
    AgentSettings,
    GatewaySettings,
    SchedulerSettings,
    SweepSettings,
    WebhooksSettings,
)
from atelier.config_lines import Settings, from_environment

CANARY = "canary"
GOOD = {
    "SCHEDULER_LISTEN": "127.0.0.1:7", "GATEWAY_LISTEN": "127.0.0.1:8",
    "WEBHOOKS_LISTEN": "127.0.0.1:9", "SCHEDULER_ADDRESS": "127.0.0.1:7", "NODE": "n0",
    "DEVICES": "[]", "POSTGRES_DSN": f"postgresql://atelier:{CANARY}@127.0.0.1/atelier",
    "S3_ENDPOINT": "127.0.0.1:9", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": CANARY,
    "TRITON_ADMIN_KEY": CANARY,
}  # fmt: skip


@pytest.fixture(autouse=True)
def good(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ATELIER_"):
            monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(f"ATELIER_{name}", value)


@pytest.mark.parametrize(
    ("kind", "name", "value", "told"),
    [
        (SchedulerSettings, "SCHEDULER_LISTEN", "0.0.0.0:7", "0.0.0.0:7 is not loopback"),
        (SchedulerSettings, "MAX_QUEUED", CANARY, "ATELIER_MAX_QUEUED: Input should be a valid"),
        (GatewaySettings, "GATEWAY_LISTEN", "0.0.0.0:8", "0.0.0.0:8 is not loopback"),
        (GatewaySettings, "SCHEDULER_ADDRESS", "10.0.0.1:7", "10.0.0.1:7 is not loopback"),
        (WebhooksSettings, "WEBHOOKS_LISTEN", "0.0.0.0:9", "ATELIER_WEBHOOKS_LISTEN: 0.0.0.0:9 is"),
        (AgentSettings, "PEER_KEY", "key.pem", "give all, or none"),
        (AgentSettings, "S3_PATIENCE_SECONDS", CANARY, "ATELIER_S3_PATIENCE_SECONDS: Input"),
    ],
)
def test_a_part_that_cannot_start_says_why_without_a_secret(
    kind: type[Settings],
    name: str,
    value: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from_environment(kind, "part")
    monkeypatch.setenv(f"ATELIER_{name}", value)
    with pytest.raises(SystemExit, match="2"):
        from_environment(kind, "part")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("part: ") and told in line and CANARY not in line


@pytest.mark.parametrize("kind", [SchedulerSettings, GatewaySettings, AgentSettings, SweepSettings])
def test_who_prints_the_error_itself_tells_none_either(
    kind: type[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_LOG_FORMAT", f"{CANARY} it is no format")
    monkeypatch.setenv("ATELIER_SCHEDULER_LISTEN", "0.0.0.0:7")
    with pytest.raises(ValidationError) as error:
        kind()
    assert CANARY not in str(error.value)
