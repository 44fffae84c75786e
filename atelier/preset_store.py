"""Presets in PostgreSQL, by versions (migration 0007). Every write can be sent again: what is there
alike already is taken for what was asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from atelier.database import Database
from atelier.errors import (
    AbortedError,
    AlreadyExistsError,
    NotFoundError,
    ResourceExhaustedError,
)

MAX_PRESETS = 1_000  # of a tenant
KEPT_VERSIONS = 1_000  # of a preset; older ones go as new ones come
EVERYBODY = ""


@dataclass(frozen=True)
class PresetKey:
    """Names a preset. version: 0 for the present one; tenant: EVERYBODY for a shared one."""

    tenant: str
    model: str
    name: str
    version: int = 0


@dataclass(frozen=True)
class StoredPreset:
    """A version of a preset; `spec` holds the fields that it sets, as protobuf writes JSON."""

    key: PresetKey
    description: str
    kind: str  # image or video
    spec: Mapping[str, Any]
    create_time: datetime | None = None  # None: not written yet

    def is_like(self, other: StoredPreset) -> bool:
        """Whether they say the same, whenever each was written."""
        mine = (self.description, self.kind, self.spec)
        return mine == (other.description, other.kind, other.spec)


class PresetStore:
    """As GenerationStore: the scheduler's, with the same errors of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, preset: StoredPreset) -> StoredPreset:
        """Its first version, or the next one after it was deleted.

        Raises:
            AlreadyExistsError: there is another of that name.
            ResourceExhaustedError: its tenant has too many.
        """
        key = preset.key
        for _ in range(2):
            if rows := await self._write("create_preset", preset, most=MAX_PRESETS):
                return rows[0]
            if stands := await self._present(key):
                break  # else there are too many, or it was deleted between the two
        else:
            raise ResourceExhaustedError(
                f"there are {MAX_PRESETS} presets already; delete one that is not used",
                reason="TOO_MANY_PRESETS",
            )
        if not preset.is_like(stands):
            raise AlreadyExistsError(
                f"there is another preset {key.name} for {key.model}: update that one, or take"
                " another name",
                reason="PRESET_EXISTS",
            )
        return stands

    async def update(self, preset: StoredPreset, follows: int) -> StoredPreset:
        """The version after `follows`.

        Raises:
            NotFoundError: there is none of that name.
            AbortedError: another version stands.
        """
        if rows := await self._write("update_preset", preset, follows=follows, kept=KEPT_VERSIONS):
            return rows[0]
        if not (stands := await self._present(preset.key)):
            raise _not_there(preset.key)
        if stands.key.version != follows + 1 or not preset.is_like(stands):
            raise _changed(preset.key, stands.key.version)
        return stands

    async def delete(self, key: PresetKey, only: int) -> None:
        """Take it away, if it stands by version `only` (0: by any). One that was taken away
        already is no error.

        Raises:
            NotFoundError: there never was one.
            AbortedError: another version stands.
        """
        if await self._database.rows("delete_preset", **_named(key), only=only):
            return
        if stands := await self._present(key):
            raise _changed(key, stands.key.version)
        if not await self._database.rows("had_preset", **_named(key)):
            raise _not_there(key)

    async def read(self, keys: Sequence[PresetKey]) -> dict[PresetKey, StoredPreset]:
        """Those of them that are there, each by the key that it was asked for with."""
        rows = await self._database.rows(
            "read_presets",
            tenants=[key.tenant for key in keys],
            models=[key.model for key in keys],
            names=[key.name for key in keys],
            versions=[key.version for key in keys],
        )
        return {
            PresetKey(row["tenant"], row["model"], row["name"], row["asked"]): _preset(row)
            for row in rows
        }

    async def scan(
        self, tenant: str, *, model: str, after: PresetKey | None, limit: int
    ) -> list[StoredPreset]:
        """A tenant's and everybody's, by model and name; everybody's behind the tenant's own."""
        rows = await self._database.rows(
            "scan_presets",
            tenant=tenant,
            model=model,
            after_model=after.model if after else "",
            after_name=after.name if after else "",
            after_shared=after is not None and after.tenant == EVERYBODY,
            limit=limit,
        )
        return [_preset(row) for row in rows]

    async def _present(self, key: PresetKey) -> StoredPreset | None:
        return (await self.read([key])).get(key)

    async def _write(self, query: str, preset: StoredPreset, **more: Any) -> list[StoredPreset]:
        rows = await self._database.rows(
            query,
            **_named(preset.key),
            description=preset.description,
            kind=preset.kind,
            spec=json.dumps(preset.spec),
            **more,
        )
        return [_preset(row) for row in rows]


def _named(key: PresetKey) -> dict[str, str]:
    return {"tenant": key.tenant, "model": key.model, "name": key.name}


def _preset(row: Mapping[str, Any]) -> StoredPreset:
    key = PresetKey(row["tenant"], row["model"], row["name"], row["version"])
    return StoredPreset(key, row["description"], row["kind"], row["spec"], row["create_time"])


def _not_there(key: PresetKey) -> NotFoundError:
    return NotFoundError(f"there is no preset {key.name} for {key.model}")


def _changed(key: PresetKey, version: int) -> AbortedError:
    return AbortedError(
        f"preset {key.name} for {key.model} is at version {version} by now: read it again, and"
        " write with the etag that it has then",
        reason="ETAG_MISMATCH",
    )
