"""TOML text, which the standard library only reads. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_toml(card: Mapping[str, Any]) -> str:
    """A table as text: plain values first, then tables, in their order."""
    return "\n".join(_toml(card)) + "\n"


def _toml(table: Mapping[str, Any], path: str = "") -> list[str]:
    """TOML lines: plain values first, then tables."""
    lines = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if not isinstance(v, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            inner = f"{path}.{_key(key)}" if path else _key(key)
            rows = _toml(value, inner)
            plain = any(not isinstance(v, Mapping) for v in value.values())
            lines += ["", f"[{inner}]", *rows] if plain else rows
    return lines


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)  # otherwise written alike in JSON and TOML
