"""Every planted fault still has its place, and the tests that are to find it are there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["what"])
def test_it_can_be_planted(mutant: dict[str, Any]) -> None:
    assert (ROOT / mutant["file"]).read_text().count(mutant["old"]) == 1
    for test in mutant["tests"]:
        path, _, name = test.partition("::")
        name = name.partition("[")[0].rpartition("::")[2]
        assert f"def {name}" in (ROOT / path).read_text()
