"""A figure beside its goal, as every benchmark's JSON tells it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def claim(name: str, value: float, unit: str, goal: float, holds: bool) -> dict[str, Any]:
    """`unit` is empty for a plain number."""
    return {"name": name, "value": round(value, 4), "unit": unit, "goal": goal, "holds": holds}


def table(claims: Iterable[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: each goal, what is, and whether it holds."""
    return [
        "| goal | is | holds |",
        "|---|---|---|",
        *(
            f"| {one['name']}: {one['goal']:.3g} {one['unit']} | {one['value']:.3f} |"
            f" {'yes' if one['holds'] else 'no'} |"
            for one in claims
        ),
    ]


def at(values: Sequence[float], share: float) -> float:
    """What that share of the values does not exceed; 0 of none."""
    return sorted(values)[int(share * (len(values) - 1))] if values else 0.0
