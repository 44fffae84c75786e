"""Each alert's fault was induced in a real house, and what its processes told meanwhile recorded
(`make record-alerts`): of all alerts that one fires, and in health none does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.alerts.faults import FAULTS
from tests.alerts.record import RECORDED
from tests.alerts.series import RULES, asked_for, notation
from tests.support.prometheus import tool

ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())


def recorded(fault: str) -> Any:
    return json.loads((RECORDED / f"{fault or 'health'}.json").read_text())


def fired(fault: str, folder: Path) -> set[str]:
    """All that fire at any minute: promtool is told that nothing will, and complains of each."""
    told = recorded(fault)
    shutil.copy(RULES, folder)
    test = {
        "interval": "1m",
        "input_series": [{"series": k, "values": v} for k, v in told["series"].items()],
        "alert_rule_test": [
            {"alertname": name, "eval_time": f"{minute}m", "exp_alerts": []}
            for name in ALERTS
            for minute in range(told["seconds"])
        ],
    }
    tests = {"rule_files": [RULES.name], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yml").write_text(json.dumps(tests))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True
    )
    output = done.stdout + done.stderr
    found = set(re.findall(r"alertname:\s*(\w+), time:", output))
    assert bool(found) == bool(done.returncode), output
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_made_exactly_its_alert_fire(fault: str, tmp_path: Path) -> None:
    assert fired(fault, tmp_path) == ({fault} if fault else set())


def test_each_alert_has_its_fault() -> None:
    assert set(FAULTS) == {"", *ALERTS}


def test_what_the_alerts_rest_on_was_recorded() -> None:
    found = {name.split("{")[0] for fault in FAULTS for name in recorded(fault)["series"]}
    assert asked_for() <= found


def test_series_are_written_as_promtool_reads_them() -> None:
    assert notation([None, None, 1.0, 1.0, 2.5, None, None, 3.0]) == "_ _x1 1x1 2.5 stale _x1 3"
