"""Presets over the wire: versions, etags, tenants, and what a generation keeps of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.preset_store import KEPT_VERSIONS, PresetKey, PresetStore, StoredPreset
from atelier.v1 import generation_pb2, preset_pb2
from atelier.v1.preset_pb2 import Preset
from tests.support import door as doors
from tests.support.door import Door, refusal
from tests.support.processes import Process, scheduler_process


@pytest.fixture
def scheduler(dsn: str, tmp_path: Path) -> Iterator[Process]:
    with scheduler_process(dsn, tmp_path) as process:
        yield process


@asynccontextmanager
async def two_tenants(address: str) -> AsyncIterator[tuple[Door, Door]]:
    async with doors.door(address) as mine, doors.door(address, tenant="else") as other:
        yield mine, other


def preset(name: str = "ink", **fields: Any) -> Preset:
    spec = {key: fields.pop(key) for key in ("steps", "guidance", "sampler") if key in fields}
    return Preset(model="toy", name=name, image=generation_pb2.ImageSpec(**spec), **fields)


async def written(door: Door, made: Preset) -> Preset:
    answer = await door.presets.CreatePreset(preset_pb2.CreatePresetRequest(preset=made))
    return answer.preset


async def updated(door: Door, made: Preset) -> Preset:
    answer = await door.presets.UpdatePreset(preset_pb2.UpdatePresetRequest(preset=made))
    return answer.preset


async def read(door: Door, name: str = "ink", **more: Any) -> Preset:
    request = preset_pb2.GetPresetRequest(model="toy", name=name, **more)
    return (await door.presets.GetPreset(request)).preset


async def drawn(door: Door, preset: str, **more: Any) -> generation_pb2.Generation:
    answer = await door.generations.CreateGeneration(asked(preset, **more))
    return answer.generation


def asked(preset: str, **more: Any) -> generation_pb2.CreateGenerationRequest:
    image = generation_pb2.ImageSpec(prompt="a ring")
    return generation_pb2.CreateGenerationRequest(model="toy", image=image, preset=preset, **more)


async def test_the_life_of_a_preset(scheduler: Process) -> None:
    async with two_tenants(scheduler.address) as (mine, other):
        service = mine.presets
        first = await written(mine, preset(steps=8, description="quick"))
        assert (first.version, first.image.steps, first.description) == (1, 8, "quick")
        assert await written(mine, preset(steps=8, description="quick")) == first  # sent again
        taken = preset_pb2.CreatePresetRequest(preset=preset(steps=9))
        assert (await refusal(service.CreatePreset, taken)).reason == "PRESET_EXISTS"

        second = await updated(mine, preset(steps=12, etag=first.etag))
        assert second.version == 2
        assert await updated(mine, preset(steps=12, etag=first.etag)) == second  # sent again
        stale = preset_pb2.UpdatePresetRequest(preset=preset(steps=13, etag=first.etag))
        told = await refusal(service.UpdatePreset, stale)
        assert (told.code, told.reason) == ("ABORTED", "ETAG_MISMATCH")
        blind = preset_pb2.UpdatePresetRequest(preset=preset(steps=13))
        assert set((await refusal(service.UpdatePreset, blind)).fields) == {"preset.etag"}

        assert await read(mine) == second and await read(mine, version=1) == first
        assert (await drawn(mine, "ink")).image.steps == 12
        old = await drawn(mine, "ink@1")
        assert (old.image.steps, old.preset) == (8, "ink@1")
        assert (await refusal(other.generations.CreateGeneration, asked("ink"))).fields.keys() == {
            "preset"
        }
        for get in ({}, {"version": 1}, {"version": 99}, {"shared": True}):
            request = preset_pb2.GetPresetRequest(model="toy", name="ink", **get)
            assert (await refusal(other.presets.GetPreset, request)).code == "NOT_FOUND"

        gone = preset_pb2.DeletePresetRequest(model="toy", name="ink", etag=first.etag)
        assert (await refusal(service.DeletePreset, gone)).reason == "ETAG_MISMATCH"
        theirs = preset_pb2.DeletePresetRequest(model="toy", name="ink")
        assert (await refusal(other.presets.DeletePreset, theirs)).code == "NOT_FOUND"
        gone.etag = second.etag
        for _ in range(2):
            await service.DeletePreset(gone)
        wanted = preset_pb2.GetPresetRequest(model="toy", name="ink")
        assert (await refusal(service.GetPreset, wanted)).code == "NOT_FOUND"
        assert (await refusal(mine.generations.CreateGeneration, asked("ink"))).fields
        assert (await drawn(mine, "ink@2")).image.steps == 12  # what was made can be made again
        assert (await written(mine, preset(steps=5))).version == 3


async def test_a_retry_is_the_same_generation_whatever_became_of_its_preset(
    scheduler: Process,
) -> None:
    async with doors.door(scheduler.address) as door:
        first = await written(door, preset(steps=8))
        request = asked("ink", request_id="once")
        made = (await door.generations.CreateGeneration(request)).generation
        assert (made.image.steps, made.preset) == (8, "ink@1")
        second = await updated(door, preset(steps=12, etag=first.etag))
        again = (await door.generations.CreateGeneration(request)).generation
        assert (again.id, again.image.steps, again.preset) == (made.id, 8, "ink@1")
        gone = preset_pb2.DeletePresetRequest(model="toy", name="ink", etag=second.etag)
        await door.presets.DeletePreset(gone)
        again = (await door.generations.CreateGeneration(request)).generation
        assert (again.id, again.preset) == (made.id, "ink@1")
        # Another request of that key is one, whether it would be good or not.
        other = await refusal(door.generations.CreateGeneration, asked("inc", request_id="once"))
        assert other.reason == "REQUEST_ID_REUSED"
        new = await refusal(door.generations.CreateGeneration, asked("ink", request_id="twice"))
        assert set(new.fields) == {"preset"}


async def test_a_retry_is_the_same_generation_after_its_deadline(scheduler: Process) -> None:
    async with doors.door(scheduler.address) as door:
        soon = Timestamp()
        soon.GetCurrentTime()
        soon.seconds += 1
        request = asked("", request_id="late", deadline=soon)
        made = (await door.generations.CreateGeneration(request)).generation
        await asyncio.sleep(1.1)  # the deadline is the wall's
        assert (await door.generations.CreateGeneration(request)).generation.id == made.id


async def test_shared_ones_are_for_everybody_and_own_ones_hide_them(scheduler: Process) -> None:
    async with two_tenants(scheduler.address) as (mine, other):
        await written(mine, preset(steps=30, shared=True))
        assert (await drawn(other, "ink")).preset == "shared/ink@1"
        await written(other, preset(steps=7))
        assert [(await drawn(d, "ink")).image.steps for d in (mine, other)] == [30, 7]
        assert (await drawn(other, "shared/ink@1")).image.steps == 30
        assert (await read(other, shared=True)).image.steps == 30


async def test_only_an_operator_writes_shared_ones(scheduler: Process) -> None:
    async with (
        doors.door(scheduler.address) as operator,
        doors.door(scheduler.address, tenant="else", scopes=["generate", "read"]) as other,
    ):
        shared = await written(operator, preset(steps=30, shared=True))
        service = other.presets
        for method, request in (
            (service.CreatePreset, preset_pb2.CreatePresetRequest(preset=preset("b", shared=True))),
            (service.UpdatePreset, preset_pb2.UpdatePresetRequest(preset=shared)),
            (
                service.DeletePreset,
                preset_pb2.DeletePresetRequest(model="toy", name="ink", shared=True),
            ),
        ):
            told = await refusal(method, request)
            assert (told.code, told.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
        assert (await read(operator, shared=True)) == shared
        await written(other, preset("b"))


async def test_lists_page_through_own_and_shared_ones(scheduler: Process) -> None:
    async with two_tenants(scheduler.address) as (mine, other):
        for name in ("a", "b", "c"):
            await written(mine, preset(name))
        await written(other, preset("a"))
        await written(mine, preset("b", shared=True))
        found, token = [], ""
        while token or not found:
            request = preset_pb2.ListPresetsRequest(model="toy", page_size=2, page_token=token)
            page = await mine.presets.ListPresets(request)
            found += [(p.name, p.shared) for p in page.presets]
            token = page.next_page_token
        assert found == [("a", False), ("b", False), ("b", True), ("c", False)]
        page = await other.presets.ListPresets(preset_pb2.ListPresetsRequest(page_size=1))
        assert len(page.presets) == 1
        bad = preset_pb2.ListPresetsRequest(model="toy", page_token=page.next_page_token)
        assert set((await refusal(mine.presets.ListPresets, bad)).fields) == {"page_token"}


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[PresetStore]:
    migrate(dsn)
    async with GenerationStore(dsn) as opened:
        yield PresetStore(opened.database)


def stored(steps: int, name: str = "ink") -> StoredPreset:
    return StoredPreset(PresetKey("t", "toy", name), "", "image", {"steps": steps})


async def test_of_fifty_writes_at_once_one_wins(store: PresetStore) -> None:
    made = await asyncio.gather(
        *(store.create(stored(steps)) for steps in range(50)), return_exceptions=True
    )
    [first] = [one for one in made if isinstance(one, StoredPreset)]
    assert first.key.version == 1
    made = await asyncio.gather(
        *(store.update(stored(100 + steps), 1) for steps in range(50)), return_exceptions=True
    )
    [second] = [one for one in made if isinstance(one, StoredPreset)]
    assert second.key.version == 2
    assert await store.read([PresetKey("t", "toy", "ink")]) == {
        PresetKey("t", "toy", "ink"): second
    }


async def test_the_oldest_versions_go(store: PresetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_VERSIONS > 3
    monkeypatch.setattr("atelier.preset_store.KEPT_VERSIONS", 3)
    await store.create(stored(1))
    for version in range(1, 6):
        await store.update(stored(version + 1), version)
    keys = [PresetKey("t", "toy", "ink", version) for version in range(1, 7)]
    assert [key.version for key in await store.read(keys)] == [4, 5, 6]


async def test_a_tenant_has_so_many_and_no_more(
    store: PresetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atelier.preset_store.MAX_PRESETS", 2)
    for name in ("a", "b"):
        await store.create(stored(1, name))
    with pytest.raises(Exception, match="delete one"):
        await store.create(stored(1, "c"))
    assert (await store.create(stored(1, "a"))).key.version == 1  # sent again
    await store.delete(PresetKey("t", "toy", "a"), 0)
    await store.create(stored(1, "c"))
