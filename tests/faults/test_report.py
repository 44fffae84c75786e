"""The report says what was found, and says NO where a goal was missed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.report import write
from tests.faults.run import IN_FLIGHT, Found, Recovery


def told(found: Found, folder: Path) -> tuple[dict[str, bool], str]:
    """Which claims hold, and the page."""
    write(found, folder)
    report = json.loads((folder / "faults.json").read_text())
    assert (folder / "faults.svg").read_text().startswith("<svg")
    return {c["name"]: c["holds"] for c in report["claims"]}, (folder / "faults.md").read_text()


def test_of_a_run_that_missed_its_goals(tmp_path: Path) -> None:
    found = Found(1, recoveries=[Recovery("kill", "s3", 2.0), Recovery("kill", "agent", 4.0)])
    found.lost, found.complaints = 1, ["P1: g1 was acknowledged, and is gone"]
    found.two_hundred = {"s3": {"succeeded": IN_FLIGHT - 1, "seconds": 3.0, "sent_again": 0}}
    holds, page = told(found, tmp_path)
    assert {name for name, held in holds.items() if held} == {"generations published twice"}
    assert "| kill | 2 | 3.0 | 4.0 |" in page
    assert "| s3 | 199 | 3.0 | 0 |" in page


def test_of_a_good_run(tmp_path: Path) -> None:
    found = Found(1, recoveries=[Recovery("kill", "s3", 2.0)] * 50)
    holds, page = told(found, tmp_path)
    assert all(holds.values())
    assert "NO" not in page
