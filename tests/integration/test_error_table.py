"""docs/api.md has a row for every reason that the code knows, and each row is so over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc_status import rpc_status
from psycopg.conninfo import make_conninfo

from atelier.api_keys import new_key, read_key
from atelier.errors import (
    DeposedError,
    FailedPreconditionError,
    ResourceExhaustedError,
    StorageRefusedError,
)
from atelier.service import serving
from atelier.v1 import fleet_pb2, preset_pb2, scheduler_pb2, scheduler_pb2_grpc
from atelier.v1 import generation_pb2 as pb
from atelier.v1.preset_pb2 import Preset
from gateway.identity import Caller
from gateway.keys import Found, Keys
from tests.support.door import Door, Refusal, door, refusal, refusal_of
from tests.support.error_table import (
    BY_NAME,
    NOT_TOLD,
    OF_CALLS,
    OF_GENERATIONS,
    Row,
    reasons_of_code,
)
from tests.support.ports import free_address
from tests.support.processes import Process, scheduler_process

# Provoked over the wire by other tests, with a device to do it on.
ELSEWHERE = {
    "DEVICE_AWAY": "test_fleet.py",
    "DEVICE_BUSY": "test_fleet.py",
    "MODEL_IN_USE": "test_fleet.py",
    "MODEL_PINNED": "test_fleet.py",
    "NO_ROOM": "test_fleet.py",
}
# Hard to come by with real parts: a scheduler that raises just that, behind the real gateway.
SCRIPTED: dict[str, Exception] = {
    "DEPOSED": DeposedError(),
    "STORAGE_REFUSED": StorageRefusedError("the database refuses these values"),
    "INTERNAL": RuntimeError("a secret of ours"),
    "DEVICE_QUARANTINED": FailedPreconditionError("d0", reason="DEVICE_QUARANTINED"),
    "GANG_MODEL": FailedPreconditionError("toy", reason="GANG_MODEL"),
    "WEBHOOK_DISABLED": FailedPreconditionError("w", reason="WEBHOOK_DISABLED"),
    "API_KEY_ENDED": FailedPreconditionError("k", reason="API_KEY_ENDED"),
    "TOO_MANY_KEYS": ResourceExhaustedError("k", reason="TOO_MANY_KEYS"),
    "TOO_MANY_WEBHOOKS": ResourceExhaustedError("w", reason="TOO_MANY_WEBHOOKS"),
}
ID = "019f3c3a-0000-7000-8000-000000000000"


def test_the_tables_have_what_the_code_knows_and_nothing_else() -> None:
    known = reasons_of_code() - NOT_TOLD | BY_NAME
    told = OF_CALLS.keys() | OF_GENERATIONS.keys()
    assert sorted(known - told) == [], "docs/api.md lacks these"
    assert sorted(told - known) == [], "the code does not know these"


def test_every_row_of_calls_is_provoked_by_somebody() -> None:
    assert PROVOKED.keys() | SHOWN.keys() | SCRIPTED.keys() | ELSEWHERE.keys() == OF_CALLS.keys()
    for reason, file in ELSEWHERE.items():
        assert f'"{reason}"' in (Path(__file__).parent / file).read_text()


@pytest.fixture(scope="module")
def dsn_of_module(postgres: str) -> str:
    name = f"t{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return make_conninfo(postgres, dbname=name)


@pytest.fixture(scope="module")
def scheduler(dsn_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("errors")
    with scheduler_process(dsn_of_module, folder, max_queued=20) as process:
        yield process


@pytest.fixture
async def house(scheduler: Process) -> AsyncIterator[Door]:
    async with door(scheduler.address) as caller:
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
    "OVERLOADED": overloaded,
    "TOO_MANY_PRESETS": too_many_presets,
    "UNAVAILABLE": unavailable,
    "OBJECT_STORE_UNAVAILABLE": store_away,
}
NEEDS_DATABASE = {"GENERATION_DELETED", "TOO_MANY_PRESETS"}


@asynccontextmanager
async def elsewhere(house: Door, **options: Any) -> AsyncIterator[Door]:
    """Another door to the same scheduler."""
    async with door(house.scheduler_address, **options) as caller:
        yield caller


@pytest.mark.parametrize("reason", PROVOKED)
async def test_a_row_is_so(house: Door, dsn_of_module: str, reason: str) -> None:
    database = [dsn_of_module] if reason in NEEDS_DATABASE else []
    as_told(OF_CALLS[reason], await PROVOKED[reason](house, *database))


KEY = new_key(b"a" * 9, b"a" * 32)
KEY_ID = KEY.split("_")[1]
PAST = datetime(2026, 1, 1, tzinfo=UTC)
# What a call shows: a key, and what is known of the key of its id.
SHOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "API_KEY_MISSING": ("", {}),
    "API_KEY_GARBLED": (KEY[:-1], {}),
    "API_KEY_UNKNOWN": (new_key(b"a" * 9, b"b" * 32), {}),
    "API_KEY_REVOKED": (KEY, {"revoked": True}),
    "API_KEY_EXPIRED": (KEY, {"expire_time": PAST}),
}


@pytest.mark.parametrize("reason", SHOWN)
async def test_a_row_of_keys_is_so(scheduler: Process, reason: str) -> None:
    text, known = SHOWN[reason]
    stored = read_key(KEY)
    assert stored

    async def find(key_id: str, context: Any) -> Found | None:
        who = Caller("local", frozenset({"read"}), key_id)
        whole = {"expire_time": None, "revoked": False, **known}
        return Found(who, stored.secret_hash, **whole) if key_id == KEY_ID else None

    async with door(scheduler.address, identify=Keys(find).identify) as caller:
        sent = (("authorization", f"Bearer {text}"),) if text else ()
        call = partial(caller.generations.GetGeneration, metadata=sent)
        as_told(OF_CALLS[reason], await refusal(call, pb.GetGenerationRequest(id=ID)))


class Scripted(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Fails to read anything, in one way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def ReadGeneration(
        self, request: scheduler_pb2.ReadGenerationRequest, context: Any
    ) -> scheduler_pb2.ReadGenerationResponse:
        raise self.error


@pytest.mark.parametrize("reason", SCRIPTED)
async def test_what_a_scheduler_says_goes_through_the_gateway(reason: str) -> None:
    address, scripted = free_address(), Scripted(SCRIPTED[reason])

    def register(server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scripted, server)

    async with serving(address, [], register), door(address) as caller:
        asked = pb.GetGenerationRequest(id=ID)
        as_told(OF_CALLS[reason], await refusal(caller.generations.GetGeneration, asked))


def as_told(row: Row, told: Refusal) -> None:
    assert (told.code, told.reason) == (row.code, row.reason)
    assert told.retry == (row.again == "yes")
    assert bool(told.fields) == (row.reason == "INVALID_ARGUMENT")
