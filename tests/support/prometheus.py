"""Prometheus' programs: installed, or unpacked by scripts/install_prometheus.sh."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

UNPACKED = Path(__file__).parents[2] / "build" / "prometheus" / "usr" / "bin"


def tool(name: str) -> str:
    """Where it is; the test is skipped where it is not."""
    found = shutil.which(name) or shutil.which(name, path=UNPACKED)
    if found is None:
        pytest.skip(f"there is no {name}: scripts/install_prometheus.sh")
    return found
