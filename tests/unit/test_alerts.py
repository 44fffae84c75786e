"""Each alert fires for its own fault, and no other does: by promtool, where there is one.

promtool reads JSON where it wants YAML, so a test is a table here: the series of a healthy house,
and what a fault makes of them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from atelier.instruments import INSTRUMENTS
from scripts.dashboards import DASHBOARDS
from tests.support.prometheus import tool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
MINUTES = 90

BUCKET = "atelier_queue_wait_seconds_bucket"
COUNT = "atelier_queue_wait_seconds_count"
WHO = 'tenant="t",priority="INTERACTIVE"'
ENDED = "atelier_generations_ended_total"
DOES = "atelier_device_time_seconds_total"
ETA = "atelier_eta_error"

# A sample a minute. Of sixty seconds of each device's minute it runs 24, loads 6 and is idle 30.
HEALTHY = {
    'up{job="atelier-gateway",instance="g"}': "1x90",
    'atelier_scheduler_leader{instance="a"}': "1x90",
    'atelier_scheduler_leader{instance="b"}': "0x90",
    f'{BUCKET}{{{WHO},le="10.0"}}': "0+59x90",
    f"{COUNT}{{{WHO}}}": "0+60x90",
    f'{ENDED}{{state="SUCCEEDED",reason="",tenant="t"}}': "0+59x90",
    f'{ENDED}{{state="FAILED",reason="EXECUTION_FAILED",tenant="t"}}': "0+1x90",
    f'{DOES}{{device="d0",doing="running"}}': "0+24x90",
    f'{DOES}{{device="d0",doing="loading"}}': "0+6x90",
    f'{DOES}{{device="d0",doing="idle"}}': "0+30x90",
    'atelier_device_state{device="d0",state="ready"}': "1x90",
    "atelier_webhooks_outbox_age_seconds": "2x90",
    f'{ETA}_bucket{{model="m",le="0.2"}}': "0+50x90",
    f'{ETA}_bucket{{model="m",le="1.0"}}': "0+60x90",
    f'{ETA}_bucket{{model="m",le="+Inf"}}': "0+60x90",
    f'{ETA}_count{{model="m"}}': "0+60x90",
    'atelier_object_store_primary_away{job="atelier-agent",instance="n"}': "0x90",
}

# What fires -> what is otherwise than in health, and the labels it fires with beside severity.
FAULTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "AtelierQueueWaitBurning": (
        {f'{BUCKET}{{{WHO},le="10.0"}}': "0+6x90"}, {"priority": "INTERACTIVE"},
    ),
    "AtelierNoLeader": ({'atelier_scheduler_leader{instance="a"}': "1x60 0x30"}, {}),
    "AtelierFailures": (
        {f'{ENDED}{{state="FAILED",reason="EXECUTION_FAILED",tenant="t"}}': "0+5x90"}, {},
    ),
    "AtelierDeviceLost": (
        {
            'atelier_device_state{device="d0",state="ready"}': "1x60 stale",
            'atelier_device_state{device="d0",state="lost"}': "_x60 1x30",
        },
        {"device": "d0", "state": "lost"},
    ),
    "AtelierOutboxStuck": ({"atelier_webhooks_outbox_age_seconds": "0+60x90"}, {}),
    "AtelierPartDown": (
        {'up{job="atelier-gateway",instance="g"}': "1x60 0x30"},
        {"job": "atelier-gateway", "instance": "g"},
    ),
    "AtelierDevicesBusy": (
        {
            f'{DOES}{{device="d0",doing="running"}}': "0+57x90",
            f'{DOES}{{device="d0",doing="loading"}}': "0+2x90",
            f'{DOES}{{device="d0",doing="idle"}}': "0+1x90",
        },
        {},
    ),
    "AtelierLoadingShare": (
        {
            f'{DOES}{{device="d0",doing="running"}}': "0+20x90",
            f'{DOES}{{device="d0",doing="loading"}}': "0+25x90",
            f'{DOES}{{device="d0",doing="idle"}}': "0+15x90",
        },
        {},
    ),
    "AtelierEtaError": ({f'{ETA}_bucket{{model="m",le="0.2"}}': "0+2x90"}, {}),
    "AtelierSecondStore": (
        {'atelier_object_store_primary_away{job="atelier-agent",instance="n"}': "0x60 1x30"},
        {"job": "atelier-agent", "instance": "n"},
    ),
}  # fmt: skip


def rules() -> dict[str, dict[str, str]]:
    """Alert -> its severity, summary and runbook."""
    found = {}
    for text in RULES.read_text().split("- alert: ")[1:]:
        fields = dict(re.findall(r"^ +(severity|summary|runbook): (.+)$", text, re.MULTILINE))
        found[text.split("\n", 1)[0]] = fields
    return found


def case(fault: str) -> dict[str, object]:
    """What promtool calls a test: the house with this fault, or none, and who should fire."""
    changed, labels = FAULTS.get(fault, ({}, {}))
    known, expected = rules(), []
    for name, fields in known.items():
        firing = {
            "exp_labels": {"severity": fields["severity"], **labels},
            "exp_annotations": {key: fields[key] for key in ("summary", "runbook")},
        }
        expected.append(
            {
                "alertname": name,
                "eval_time": f"{MINUTES - 5}m",
                "exp_alerts": [firing] if name == fault else [],
            }
        )
    series = [{"series": k, "values": v} for k, v in {**HEALTHY, **changed}.items()]
    return {"interval": "1m", "input_series": series, "alert_rule_test": expected}


def test_each_alert_has_a_fault_here_and_a_page_to_read() -> None:
    known = rules()
    assert known.keys() == FAULTS.keys()
    for name, fields in known.items():
        page = (ROOT / fields["runbook"]).read_text()
        assert name in page
        for heading in ("## What it means", "## What to look at", "## What to do"):
            assert heading in page, f"{fields['runbook']} lacks {heading}"


def test_commands_of_the_pages_are_commands() -> None:
    from typer.main import get_command

    from atelier.cli.__main__ import app

    command = get_command(app)
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        for words in re.findall(r"`atelier ([a-z]+)", page.read_text()):
            assert words in command.commands, f"{page.name}: atelier {words}"  # type: ignore[attr-defined]


def test_alerts_ask_for_metrics_that_there_are() -> None:
    declared = {name for instrument in INSTRUMENTS for name in instrument.series}
    asked = set(re.findall(r"\batelier_[a-z_]+\b", RULES.read_text()))
    assert asked <= declared


def test_dashboards_ask_for_metrics_that_there_are() -> None:
    """Also where nothing has happened yet, and a query says 0 to a name that is wrong."""
    declared = {name: i.labels for i in INSTRUMENTS for name in i.series}
    for _, panels in DASHBOARDS.values():
        for query in (query for panel in panels for query in panel.queries):
            asked = set(re.findall(r"\b(?:atelier|rpc|db)_[a-z_]+(?=[\[{) ]|$)", query))
            labels = {label.replace(".", "_") for labels in declared.values() for label in labels}
            assert asked - labels <= declared.keys(), query


@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_fault_makes_exactly_its_alert_fire(fault: str, tmp_path: Path) -> None:
    promtool = tool("promtool")
    shutil.copy(RULES, tmp_path)
    test = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [case(fault)]}
    (tmp_path / "test.yml").write_text(json.dumps(test))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_critical_alerts_wake_somebody() -> None:
    amtool = tool("amtool")
    config = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
    subprocess.run([amtool, "check-config", config], check=True, capture_output=True)
    routes = [amtool, "config", "routes", "test", f"--config.file={config}"]
    for fields in rules().values():
        told = subprocess.run(
            [*routes, f"severity={fields['severity']}"], check=True, capture_output=True, text=True
        ).stdout
        assert told.strip() == {"critical": "on-call", "warning": "team"}[fields["severity"]]
