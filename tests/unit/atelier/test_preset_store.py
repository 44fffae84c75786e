"""A preset that is deleted while it is made again: nobody is told that there are too many."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from atelier.database import Database
from atelier.errors import ResourceExhaustedError
from atelier.preset_store import PresetKey, PresetStore, StoredPreset

PRESET = StoredPreset(PresetKey("acme", "toy", "ink"), "", "image", {"steps": 3})
ROW = {
    "tenant": "acme", "model": "toy", "name": "ink", "version": 2, "description": "",
    "kind": "image", "spec": {"steps": 3}, "create_time": datetime(2026, 1, 1, tzinfo=UTC),
}  # fmt: skip


class Scripted:
    """A database that gives these rows, one statement after another."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers, self.asked = list(answers), list[str]()

    async def rows(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        self.asked.append(query)
        return self.answers.pop(0)


async def test_one_that_goes_between_two_statements_is_made() -> None:
    database = Scripted([], [], [ROW])  # it stood, it is gone, it is written
    made = await PresetStore(cast(Database, database)).create(PRESET)
    assert made.key.version == 2
    assert database.asked == ["create_preset", "read_presets", "create_preset"]


async def test_too_many_are_told_as_such() -> None:
    database = Scripted([], [], [], [])
    with pytest.raises(ResourceExhaustedError):
        await PresetStore(cast(Database, database)).create(PRESET)
