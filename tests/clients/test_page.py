"""docs/clients/README.md shows what the programs say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parents[2] / "docs" / "clients"
FILES = ["python/client.py", "node/client.mjs", "go/client.go", "cpp/client.cc"]


@pytest.mark.parametrize("file", FILES)
def test_the_page_shows_the_program(file: str) -> None:
    [shown] = re.findall(r"\[shown\]\n(.*?)\n+\S+ \[end\]", (CLIENTS / file).read_text(), re.DOTALL)
    assert f"({file}):\n\n```" in (page := (CLIENTS / "README.md").read_text())
    assert f"\n{shown}\n```\n" in page
