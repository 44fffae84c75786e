"""docs/api.md's tables of errors, and the reasons that the code knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("atelier", "gateway", "scheduler", "agent", "webhooks")
NOT_SERVED = {"cli", "embedded", "client", "v1", "simulation"}  # parts of rooms
# Of lines between our own parts, or classes that nothing is raised as without a reason of its own.
NOT_TOLD = {
    "ATTEMPT_UNKNOWN",
    "CANCELLED",
    "STALE_LEADER",
    "ABORTED",
    "FAILED_PRECONDITION",
}
# Reasons that are put together, or named by a constant.
BY_NAME = {"NO_DEVICE", "NO_MODEL", "OUT_OF_MEMORY", "UNKNOWN"}


@dataclass(frozen=True)
class Row:
    code: str
    reason: str
    again: str


def table(mark: str) -> dict[str, Row]:
    """A table of docs/api.md, by reason."""
    _, _, text = (ROOT / "docs" / "api.md").read_text().partition(f"<!-- {mark}")
    lines = [line for line in text.splitlines()[1:] if line.strip()]
    found = {}
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        code, reason, again, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
        assert reason not in found, reason
        found[reason] = Row(code, reason, again)
    return found


OF_CALLS, OF_GENERATIONS = table("errors of calls"), table("errors of generations")


def reasons_of_code() -> set[str]:
    """Every constant that can become the reason of an error."""
    found: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if not NOT_SERVED & set(path.parts):
                found |= set(reasons_in(ast.parse(path.read_text()), path.name))
    return found


def reasons_in(tree: ast.Module, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        told: list[ast.expr] = []
        if isinstance(node, ast.keyword) and node.arg == "reason":
            told = [node.value]
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            told = node.args[1:2] if called == "Failure" else told
            told = node.args[:1] if called == "OrderRefusedError" else told
        elif isinstance(node, ast.ClassDef):
            told = [
                one.value for one in node.body
                if isinstance(one, ast.Assign) and getattr(one.targets[0], "id", "") == "reason"
            ]  # fmt: skip
        elif isinstance(node, ast.Tuple) and name in ("triton_errors.py", "outcomes.py"):
            told = list(node.elts)
        for value in told:
            word = value.value if isinstance(value, ast.Constant) else None
            if isinstance(word, str) and re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", word):
                yield word
