"""Write deploy/grafana/*.json from scripts/dashboards.py; `--check` fails where a file differs.

A generator of our own, for a panel needs twelve fields of a schema that Grafana has kept for years:
grafanalib has had no release since January 2024, and Grafana's own SDK is one for each version of
Grafana, with thousands of classes for what is here one function. The tests have it read what is
written here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from dashboards import DASHBOARDS, Panel

FOLDER = Path(__file__).parent.parent / "deploy" / "grafana"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 12, 8  # two in a row of 24


def panel(number: int, told: Panel) -> dict[str, Any]:
    """One, as Grafana 9 and later reads it."""
    column, row = number % 2, number // 2
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": told.title,
        "description": told.help,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row * HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": told.unit,
                "min": 0,
                "custom": {
                    "fillOpacity": 30 if told.stacked else 8,
                    "stacking": {"mode": "normal" if told.stacked else "none"},
                },
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + n), "datasource": SOURCE, "expr": query,
                "legendFormat": name,
            }
            for n, (query, name) in enumerate(told.queries.items())
        ],
    }  # fmt: skip


def dashboard(name: str) -> str:
    """The whole file."""
    title, panels = DASHBOARDS[name]
    choose = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}
    links = {"type": "dashboards", "tags": ["atelier"], "asDropdown": False, "title": "Atelier"}
    written = {
        "uid": f"atelier-{name}",
        "title": f"Atelier: {title}",
        "tags": ["atelier"],
        "schemaVersion": 38,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [choose]},
        "links": [links],
        "panels": [panel(number, told) for number, told in enumerate(panels)],
    }
    return json.dumps(written, indent=2) + "\n"


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    differ = 0
    for name in DASHBOARDS:
        path, text = FOLDER / f"{name}.json", dashboard(name)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.stdout.write(f"deploy/grafana/{name}.json differs: make dashboards\n")
            differ = 1
    if "--check" in sys.argv and not differ:
        sys.stdout.write("deploy/grafana: as written\n")
    return differ


if __name__ == "__main__":
    sys.exit(main())
