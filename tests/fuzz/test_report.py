"""The report says what was sent and how it ended, and says NO where something was found."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.fuzz.report import write
from tests.fuzz.run import Found


def told(folder: Path, complaints: list[dict[str, str]]) -> tuple[list[bool], str]:
    found = Found(3, Counter(near=3), {"A.B": Counter({"OK": 2, "NOT_FOUND": 1})}, complaints)
    parts = {"gateway": found, "agents": Found(1, ends={"C.D": Counter(OK=1)})}
    write(parts, {"asked": 3, "seed": 7, "faults": [], "resident_mb": {"gateway": [1, 2]}}, folder)
    claims = json.loads((folder / "fuzz.json").read_text())["claims"]
    return [claim["holds"] for claim in claims], (folder / "fuzz.md").read_text()


def test_of_a_good_run(tmp_path: Path) -> None:
    holds, page = told(tmp_path, [])
    assert holds == [True, True] and "NO |" not in page
    assert "| A.B | 3 | 2 | 0 | 1 |" in page


def test_of_one_that_found_something(tmp_path: Path) -> None:
    wrong = {"method": "A.B", "way": "near", "wrong": "INTERNAL: x", "request": "CgE="}
    holds, page = told(tmp_path, [wrong])
    assert holds == [False, True] and "NO |" in page
    assert "- A.B (near): INTERNAL: x `CgE=`" in page
