"""What is deleted is gone from the database and from the bucket, and makes nothing again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from atelier.config import ObjectStoreSettings
from atelier.errors import DeletedError, UnavailableError
from atelier.generation import Generation, new_id
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.object_keys import checkpoint_key, result_key
from atelier.stores import Stores
from atelier.v1 import generation_pb2 as pb
from scheduler.intake import Intake
from scheduler.tenant_retention import TenantRetention
from tests.support.door import Door, door, refusal
from tests.support.generations import BY, RESULT, generation
from tests.support.processes import Process, scheduler_process
from tests.support.s3 import S3Server


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), "key", "secret") as server:
        yield server


@pytest.fixture
def files(bucket: S3Server) -> Stores:
    return Stores.from_settings(
        ObjectStoreSettings(
            s3_endpoint=bucket.address,
            s3_access_key="key",
            s3_secret_key="secret",  # type: ignore[arg-type]
        )
    )


@pytest.fixture
def scheduler(dsn: str, tmp_path: Path) -> Iterator[Process]:
    with scheduler_process(dsn, tmp_path) as process:
        yield process


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[GenerationStore]:
    migrate(dsn)
    async with GenerationStore(dsn) as opened:
        yield opened


async def published(store: GenerationStore, files: Stores | None, made: Generation) -> list[str]:
    """Let it have results; their keys, and that of a checkpoint."""
    claimed = await store.claim(made.id, "d0")
    assert claimed and claimed.lease_token
    keys = [
        result_key(made.tenant, made.id, claimed.lease_token, name)
        for name in ("0.png", "0.small.png")
    ]
    result = replace(RESULT, object_key=keys[0], thumbnail_key=keys[1])
    keys.append(checkpoint_key(made.tenant, made.id))
    for key in keys:
        if files:
            await asyncio.to_thread(files.put, key, b"file", "image/png")
    assert await store.publish(made.id, claimed.lease_token, [result], BY)
    return keys


async def created(caller: Door, request_id: str = "") -> pb.Generation:
    image = pb.ImageSpec(prompt="a ring")
    request = pb.CreateGenerationRequest(model="toy", image=image, request_id=request_id)
    return (await caller.generations.CreateGeneration(request)).generation


async def test_a_deleted_generation_is_gone_with_its_files(
    scheduler: Process, dsn: str, bucket: S3Server, files: Stores
) -> None:
    async with (
        door(scheduler.address, s3_address=bucket.address) as caller,
        door(scheduler.address, tenant="else") as other,
        GenerationStore(dsn) as store,
    ):
        made = await created(caller, "once")
        request = pb.DeleteGenerationRequest(id=made.id)
        delete, read = caller.generations.DeleteGeneration, caller.generations.GetGeneration
        early = await refusal(delete, request)
        assert (early.code, early.reason) == ("FAILED_PRECONDITION", "NOT_ENDED")
        row = await store.read("local", made.id)
        assert row
        keys = await published(store, files, row)
        assert all(files.has(key) for key in keys)
        stranger = await refusal(other.generations.DeleteGeneration, request)
        assert stranger.code == "NOT_FOUND" and files.has(keys[0])

        await delete(request)
        assert not any(files.has(key) for key in keys)
        assert (await refusal(read, pb.GetGenerationRequest(id=made.id))).code == "NOT_FOUND"
        assert (await refusal(delete, request)).code == "NOT_FOUND"
        listed = await caller.generations.ListGenerations(pb.ListGenerationsRequest())
        assert not listed.generations
        image = pb.ImageSpec(prompt="a ring")
        again = pb.CreateGenerationRequest(model="toy", image=image, request_id="once")
        told = await refusal(caller.generations.CreateGeneration, again)
        assert (told.code, told.reason) == ("FAILED_PRECONDITION", "GENERATION_DELETED")
        assert (await created(caller, "other")).id != made.id
    with psycopg.connect(dsn) as connection:
        left = connection.execute(
            "SELECT count(*) FROM generation_events WHERE generation_id = %s", (made.id,)
        ).fetchone()
    assert left == (0,)


async def test_a_store_that_is_away_keeps_the_generation(scheduler: Process, dsn: str) -> None:
    async with (
        door(scheduler.address, s3_address="127.0.0.1:9") as caller,
        GenerationStore(dsn) as store,
    ):
        made = await created(caller)
        row = await store.read("local", made.id)
        assert row
        await published(store, None, row)
        request = pb.DeleteGenerationRequest(id=made.id)
        away = await refusal(caller.generations.DeleteGeneration, request)
        assert (away.code, away.reason) == ("UNAVAILABLE", "OBJECT_STORE_UNAVAILABLE")
        assert await store.read("local", made.id)


async def test_in_a_group_only_those_that_were_deleted_are_refused(store: GenerationStore) -> None:
    [gone] = await store.insert([generation(request_id="gone")])
    await store.request_cancel("local", gone.id)
    assert await store.erase("local", [gone.id], keep_keys=True) == {gone.id}
    accepted: list[Generation] = []
    intake = Intake(store, accepted.append)
    wanted = [generation(request_id=name) for name in ("a", "gone", "b", "gone")]
    submits = [asyncio.create_task(intake.submit(one)) for one in wanted]
    running = asyncio.create_task(intake.run())
    answers = await asyncio.gather(*submits, return_exceptions=True)
    running.cancel()
    assert [type(answer) for answer in answers] == [
        Generation, DeletedError, Generation, DeletedError,
    ]  # fmt: skip
    assert [one.id for one in accepted] == [wanted[0].id, wanted[2].id]
    assert len(await store.unfinished()) == 2


def old(days: float, tenant: str, **changes: object) -> Generation:
    made = time.time() - days * 86_400
    when = datetime.fromtimestamp(made, UTC)
    return generation(
        id=new_id(made, time.perf_counter_ns()), create_time=when, tenant=tenant, **changes
    )


async def test_a_tenant_s_retention_takes_what_ended_with_its_files_and_keys(
    store: GenerationStore, files: Stores
) -> None:
    rows = {}
    for name, days, tenant in (
        ("past", 8, "brief"), ("young", 6, "brief"), ("waits", 8, "brief"), ("other", 8, "else"),
    ):  # fmt: skip
        [rows[name]] = await store.insert([old(days, tenant, request_id=name)])
    keys = {name: await published(store, files, rows[name]) for name in ("past", "young", "other")}
    retention = TenantRetention(store, files, {"brief": 7}, at_once=1)
    assert await retention.drop() == 1
    assert not any(files.has(key) for key in keys["past"])
    assert all(files.has(key) for name in ("young", "other") for key in keys[name])
    assert [name for name, g in rows.items() if await store.look(g.id)] == [
        "young", "waits", "other",
    ]  # fmt: skip
    [again] = await store.insert([old(0, "brief", request_id="past")])
    assert again.id != rows["past"].id  # its request_id went with it
    await store.request_cancel("brief", rows["waits"].id)
    assert await retention.drop() == 1


async def test_retention_keeps_what_has_files_that_cannot_be_deleted(
    store: GenerationStore,
) -> None:
    [past] = await store.insert([old(8, "brief")])
    await published(store, None, past)

    class Away(Stores):
        def delete(self, key: str) -> None:
            raise UnavailableError("the object store is away")

    away = Away(None)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError):
        await TenantRetention(store, away, {"brief": 7}).drop()
    assert await store.look(past.id)
    assert await TenantRetention(store, None, {"brief": 7}).drop() == 1  # a sweep does the rest
