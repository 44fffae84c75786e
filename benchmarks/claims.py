"""A figure beside its goal, as every benchmark's JSON tells it."""

from __future__ import annotations

from typing import Any


def claim(name: str, value: float, unit: str, goal: float, holds: bool) -> dict[str, Any]:
    """`unit` is empty for a plain number."""
    return {"name": name, "value": round(value, 4), "unit": unit, "goal": goal, "holds": holds}
