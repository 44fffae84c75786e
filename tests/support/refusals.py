"""Every refusal that a caller can bring about, brought about over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import psycopg
import pytest
from grpc_status import rpc_status

from atelier.v1 import fleet_pb2, preset_pb2, tenant_pb2
from atelier.v1 import generation_pb2 as pb
from atelier.v1.preset_pb2 import Preset
from tests.support.door import Door, Refusal, door, refusal, refusal_of
from tests.support.ports import free_address

ID = "019f3c3a-0000-7000-8000-000000000000"


@asynccontextmanager
async def elsewhere(house: Door, **options: Any) -> AsyncIterator[Door]:
    """Another door to the same scheduler."""
    async with door(house.scheduler_address, **options) as caller:
        yield caller


def create(**changes: Any) -> pb.CreateGenerationRequest:
    image = pb.ImageSpec(**{"prompt": "a ring", **changes.pop("image", {})})
    return pb.CreateGenerationRequest(model="toy", image=image, **changes)


def preset(name: str, steps: int = 8, **more: Any) -> Preset:
    return Preset(model="toy", name=name, image=pb.ImageSpec(steps=steps), **more)


async def made(house: Door, **changes: Any) -> str:
    return str((await house.generations.CreateGeneration(create(**changes))).generation.id)


async def ended(house: Door, **changes: Any) -> pb.DeleteGenerationRequest:
    id_ = await made(house, **changes)
    await house.generations.CancelGeneration(pb.CancelGenerationRequest(id=id_))
    return pb.DeleteGenerationRequest(id=id_)


async def invalid(house: Door) -> Refusal:
    return await refusal(house.generations.CreateGeneration, create(image={"steps": 0}))


async def unreadable(house: Door) -> Refusal:
    method = "/atelier.v1.GenerationService/CreateGeneration"
    call = house.channel.unary_unary(method, lambda data: data, lambda data: data)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(b"\xff\xff\xff", timeout=10)
    return refusal_of(rpc_status.from_call(refused.value))


async def scope_missing(house: Door) -> Refusal:
    async with elsewhere(house, scopes=["generate", "read"]) as caller:
        asked = preset_pb2.CreatePresetRequest(preset=preset("ours", shared=True))
        return await refusal(caller.presets.CreatePreset, asked)


async def not_found(house: Door) -> Refusal:
    return await refusal(house.generations.GetGeneration, pb.GetGenerationRequest(id=ID))


async def no_device(house: Door) -> Refusal:
    asked = fleet_pb2.UndrainDeviceRequest(device_id="nobody")
    return await refusal(house.fleet.UndrainDevice, asked)


async def no_model(house: Door) -> Refusal:
    return await refusal(house.fleet.LoadModel, fleet_pb2.LoadModelRequest(model="nobody"))


async def request_id_reused(house: Door) -> Refusal:
    await ended(house, request_id="once")
    again = create(request_id="once", image={"steps": 3})
    return await refusal(house.generations.CreateGeneration, again)


async def preset_exists(house: Door) -> Refusal:
    for steps in (8, 9):
        asked = preset_pb2.CreatePresetRequest(preset=preset("ink", steps))
        if steps == 8:
            await house.presets.CreatePreset(asked)
    return await refusal(house.presets.CreatePreset, asked)


async def etag_mismatch(house: Door) -> Refusal:
    asked = preset_pb2.CreatePresetRequest(preset=preset("paper"))
    await house.presets.CreatePreset(asked)
    late = preset_pb2.UpdatePresetRequest(preset=preset("paper", 9, etag="7"))
    return await refusal(house.presets.UpdatePreset, late)


async def not_ended(house: Door) -> Refusal:
    id_ = await made(house)
    told = await refusal(house.generations.DeleteGeneration, pb.DeleteGenerationRequest(id=id_))
    await house.generations.CancelGeneration(pb.CancelGenerationRequest(id=id_))
    return told


async def generation_deleted(house: Door, dsn: str) -> Refusal:
    gone = await ended(house, request_id="gone")
    with psycopg.connect(dsn) as connection:  # as DeleteGeneration does once the files are gone
        connection.execute("DELETE FROM generations WHERE id = %s", (gone.id,))
    return await refusal(house.generations.CreateGeneration, create(request_id="gone"))


async def queue_full(house: Door) -> Refusal:
    asked = pb.CreateGenerationsRequest(requests=[create()] * 30)
    answers = (await house.generations.CreateGenerations(asked)).answers
    told = await refusal(house.generations.CreateGeneration, create())
    for answer in answers:
        if answer.WhichOneof("answer") == "generation":
            cancel = pb.CancelGenerationRequest(id=answer.generation.id)
            await house.generations.CancelGeneration(cancel)
    return told


async def bound(house: Door, tenant: str, **plan: Any) -> Refusal:
    """What such a tenant's second generation is told, of a class that its first has not."""
    asked = tenant_pb2.SetTenantRequest(name=tenant, plan=tenant_pb2.Plan(**plan))
    await house.tenants.SetTenant(asked)
    async with elsewhere(house, tenant=tenant) as caller:
        id_ = await made(caller)
        more = create(priority=pb.PRIORITY_INTERACTIVE)
        told = await refusal(caller.generations.CreateGeneration, more)
        await caller.generations.CancelGeneration(pb.CancelGenerationRequest(id=id_))
    return told


async def quota_exceeded(house: Door) -> Refusal:
    return await bound(house, "small", max_queued=1)


async def refused_too_often(house: Door) -> Refusal:
    plan = tenant_pb2.Plan(max_queued=1)
    await house.tenants.SetTenant(tenant_pb2.SetTenantRequest(name="stubborn", plan=plan))
    async with elsewhere(house, tenant="stubborn") as caller:
        many = pb.CreateGenerationsRequest(requests=[create()] * 150)
        answers = (await caller.generations.CreateGenerations(many)).answers
        told = await refusal(caller.generations.CreateGeneration, create())
        assert told == await refusal(caller.generations.CreateGenerations, many)
        cancel = pb.CancelGenerationRequest(id=answers[0].generation.id)
        await caller.generations.CancelGeneration(cancel)  # what is no submit is not held back
    return told


async def priority_not_allowed(house: Door) -> Refusal:
    return await bound(house, "patient", highest_priority=pb.PRIORITY_BATCH)


async def overloaded(house: Door) -> Refusal:
    async with elsewhere(house, held_bytes=1_000) as caller:
        large = create(image={"prompt": "x" * 100_000})
        return await refusal(caller.generations.CreateGeneration, large)


async def too_many_presets(house: Door, dsn: str) -> Refusal:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO preset_versions (tenant, model, name, version, description, kind, spec)"
            " SELECT 'many', 'toy', n::text, 1, '', 'image', '{}' FROM generate_series(1, 1000) n"
        )
        connection.execute(
            "INSERT INTO presets SELECT tenant, model, name, version FROM preset_versions"
            " WHERE tenant = 'many'"
        )
    async with elsewhere(house, tenant="many") as caller:
        asked = preset_pb2.CreatePresetRequest(preset=preset("more"))
        return await refusal(caller.presets.CreatePreset, asked)


async def unavailable(house: Door) -> Refusal:
    async with door(free_address(), call_timeout_seconds=0.3) as caller:
        return await refusal(caller.generations.CreateGeneration, create())


async def store_away(house: Door) -> Refusal:
    return await refusal(house.generations.DeleteGeneration, await ended(house))


PROVOKED: dict[str, Callable[..., Awaitable[Refusal]]] = {
    "INVALID_ARGUMENT": invalid,
    "UNREADABLE": unreadable,
    "SCOPE_MISSING": scope_missing,
    "NOT_FOUND": not_found,
    "NO_DEVICE": no_device,
    "NO_MODEL": no_model,
    "REQUEST_ID_REUSED": request_id_reused,
    "PRESET_EXISTS": preset_exists,
    "ETAG_MISMATCH": etag_mismatch,
    "NOT_ENDED": not_ended,
    "GENERATION_DELETED": generation_deleted,
    "QUEUE_FULL": queue_full,
    "QUOTA_EXCEEDED": quota_exceeded,
    "REFUSED_TOO_OFTEN": refused_too_often,
    "PRIORITY_NOT_ALLOWED": priority_not_allowed,
    "OVERLOADED": overloaded,
    "TOO_MANY_PRESETS": too_many_presets,
    "UNAVAILABLE": unavailable,
    "OBJECT_STORE_UNAVAILABLE": store_away,
}
NEEDS_DATABASE = {"GENERATION_DELETED", "TOO_MANY_PRESETS"}
