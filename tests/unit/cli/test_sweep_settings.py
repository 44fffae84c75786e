"""`atelier sweep`: where it sweeps, and what it says where nobody tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from atelier.cli.problems import ProblemError
from atelier.cli.sweep import settings_of


def test_without_a_stack_the_environment_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "POSTGRES_DSN": "postgresql://canary",
        "S3_ENDPOINT": "s3:1",
        "S3_ACCESS_KEY": "key",
        "S3_SECRET_KEY": "canary",
        "S3_SECONDARY_ENDPOINT": "backup:1",
    }.items():
        monkeypatch.setenv(f"ATELIER_{name}", value)
    settings = settings_of(tmp_path)
    assert (settings.primary.endpoint, settings.primary.name) == ("s3:1", "atelier")
    assert settings.secondary is not None
    assert settings.secondary == settings.primary.model_copy(update={"endpoint": "backup:1"})


def test_what_is_missing_is_named_and_nothing_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_S3_SECRET_KEY", "canary")
    with pytest.raises(ProblemError) as problem:
        settings_of(tmp_path)
    assert "ATELIER_POSTGRES_DSN" in str(problem.value)
    assert "ATELIER_S3_ENDPOINT" in str(problem.value)
    assert "canary" not in str(problem.value)
