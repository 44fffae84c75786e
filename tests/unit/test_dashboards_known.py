"""Grafana knows every field of the dashboards: they go through its own types
(grafana-foundation-sdk, generated from its schemas) and come out whole. What is misspelt is lost on
the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
register_default_plugins()


def as_grafana_has_it(written: Any) -> Any:
    known = Dashboard.from_json(json.loads(json.dumps(written)))
    return json.loads(JSONEncoder().encode(known))


def lost(written: Any, kept: Any, place: str = "") -> Iterator[str]:
    """What was written and is not there any more; defaults may have come."""
    if isinstance(written, dict):
        for name, value in written.items():
            if name not in kept:
                yield f"{place}/{name}"
            else:
                yield from lost(value, kept[name], f"{place}/{name}")
    elif isinstance(written, list):
        for number, (one, other) in enumerate(zip(written, kept, strict=True)):
            yield from lost(one, other, f"{place}/{number}")
    elif written != kept:
        yield f"{place}: {kept}"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_nothing_of_a_dashboard_is_unknown(path: Path) -> None:
    written = json.loads(path.read_text())
    assert written["panels"]
    assert not list(lost(written, as_grafana_has_it(written)))


@pytest.mark.parametrize(
    "place", [("panels", 0), ("panels", 0, "targets", 0), ("panels", 0, "options"), ("time",)]
)
def test_what_is_misspelt_is_found(place: tuple[str | int, ...]) -> None:
    written = json.loads((FOLDER / "service.json").read_text())
    within: Any = written
    for name in place:
        within = within[name]
    within["legendd"] = "x"
    where = "/".join(["", *map(str, place), "legendd"])
    assert list(lost(written, as_grafana_has_it(written))) == [where]
