"""docs/api.md has a row for every reason that the code knows, and each row is so over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from atelier.api_keys import new_key, read_key
from atelier.errors import (
    DeposedError,
    FailedPreconditionError,
    ResourceExhaustedError,
    StorageRefusedError,
    UnavailableError,
)
from atelier.service import serving
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import scheduler_pb2, scheduler_pb2_grpc
from gateway.identity import Caller
from gateway.key_tries import EVERYBODY_BURST, KeyTries
from gateway.keys import Found, Keys
from tests.support.door import Door, Refusal, door, refusal
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
from tests.support.refusals import ID, NEEDS_DATABASE, PROVOKED

# Provoked over the wire by other tests, with a device to do it on.
ELSEWHERE = {
    "DEVICE_AWAY": "test_fleet.py",
    "DEVICE_BUSY": "test_fleet.py",
    "MODEL_IN_USE": "test_fleet.py",
    "MODEL_PINNED": "test_fleet.py",
    "NO_ROOM": "test_fleet.py",
    "KEYS_TRIED_TOO_OFTEN": "test_error_table.py",
}
# Hard to come by with real parts: a scheduler that raises just that, behind the real gateway.
SCRIPTED: dict[str, Exception] = {
    "DEPOSED": DeposedError(),
    "PEER_REFUSED": UnavailableError("no", reason="PEER_REFUSED"),
    "STORAGE_REFUSED": StorageRefusedError("the database refuses these values"),
    "INTERNAL": RuntimeError("a secret of ours"),
    "DEVICE_QUARANTINED": FailedPreconditionError("d0", reason="DEVICE_QUARANTINED"),
    "GANG_MODEL": FailedPreconditionError("toy", reason="GANG_MODEL"),
    "WEBHOOK_DISABLED": FailedPreconditionError("w", reason="WEBHOOK_DISABLED"),
    "API_KEY_ENDED": FailedPreconditionError("k", reason="API_KEY_ENDED"),
    "TOO_MANY_KEYS": ResourceExhaustedError("k", reason="TOO_MANY_KEYS"),
    "TOO_MANY_WEBHOOKS": ResourceExhaustedError("w", reason="TOO_MANY_WEBHOOKS"),
}


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


async def test_the_row_of_keys_that_are_tried_is_so(scheduler: Process) -> None:
    async def find(key_id: str) -> None:
        return None

    async with door(
        scheduler.address, identify=Keys(find, tries=KeyTries(clock=lambda: 0.0)).identify
    ) as caller:

        async def tell(number: int) -> Refusal:
            text = new_key(number.to_bytes(9, "big"), b"a" * 32)
            sent = (("authorization", f"Bearer {text}"),)
            call = partial(caller.generations.GetGeneration, metadata=sent)
            return await refusal(call, pb.GetGenerationRequest(id=ID))

        told = [await tell(number) for number in range(int(EVERYBODY_BURST) + 1)]
    assert {one.reason for one in told[:-1]} == {"API_KEY_UNKNOWN"}
    as_told(OF_CALLS["KEYS_TRIED_TOO_OFTEN"], told[-1])


@pytest.mark.parametrize("reason", SHOWN)
async def test_a_row_of_keys_is_so(scheduler: Process, reason: str) -> None:
    text, known = SHOWN[reason]
    stored = read_key(KEY)
    assert stored

    async def find(key_id: str) -> Found | None:
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
