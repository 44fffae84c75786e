"""The sweep, over a real object store and a real database: what may go, and what never."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from pydantic import SecretStr

from atelier.config import ObjectStoreSettings
from atelier.generation import Failure, Generation
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.object_keys import checkpoint_key, in_secondary, result_key
from atelier.object_store import ObjectStore
from atelier.sweep import PREFIXES, WrongDatabaseError, sweep
from tests.support.generations import BY, RESULT, generation
from tests.support.s3 import S3Server

UNKNOWN = "01920000-0000-7000-8000-000000000000"
pytestmark = pytest.mark.real


def in_an_hour() -> datetime:
    """All that is stored is older."""
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), "key", "secret") as running:
        yield running


@pytest.fixture
def store(server: S3Server) -> ObjectStore:
    """Empty."""
    made = ObjectStore.from_settings(
        ObjectStoreSettings(
            s3_endpoint=server.address, s3_access_key="key", s3_secret_key=SecretStr("secret")
        )
    )
    for key in keys(made):
        made.delete(key)
    return made


@pytest_asyncio.fixture
async def generations(dsn: str) -> AsyncIterator[GenerationStore]:
    migrate(dsn)
    async with GenerationStore(dsn, connections=2) as made:
        yield made


def keys(store: ObjectStore) -> set[str]:
    return {one.key for prefix in (*PREFIXES, "inputs/")
            for page in store.pages(prefix) for one in page}  # fmt: skip


def put(store: ObjectStore, *names: str) -> set[str]:
    for name in names:
        store.put(name, b"x" * 10, "image/png")
    return set(names)


def key(of: Generation, token: int | None, name: str = "0.png") -> str:
    return result_key(of.tenant, of.id, token or 0, name)


async def claimed(generations: GenerationStore) -> Generation:
    [one] = await generations.insert([generation()])
    running = await generations.claim(one.id, "d0")
    assert running is not None
    return running


async def test_what_is_published_or_may_be_stays_and_all_else_goes(
    store: ObjectStore, generations: GenerationStore
) -> None:
    [queued] = await generations.insert([generation()])
    running = await claimed(generations)
    done = await claimed(generations)
    assert done.lease_token is not None
    named = in_secondary(key(done, done.lease_token))
    small = key(done, done.lease_token, "0.small.png")
    result = replace(RESULT, object_key=named, thumbnail_key=small)
    await generations.publish(done.id, done.lease_token, [result], BY)
    failed = await claimed(generations)
    await generations.fail(failed.id, failed.lease_token, Failure("INTERNAL", "BROKEN", "broken"))
    stays = put(
        store,
        named,
        small,
        key(queued, 3),
        key(running, running.lease_token),
        checkpoint_key("local", running.id),
        checkpoint_key("local", queued.id),
        "inputs/local/abc.png",
        "results/local/not-an-id/1/0.png",
    )
    goes = put(
        store,
        key(done, done.lease_token),  # the primary took it after all, and the secondary's was named
        key(done, 1),  # another attempt's
        key(done, done.lease_token, "1.png"),
        key(failed, failed.lease_token),
        checkpoint_key("local", done.id),
        checkpoint_key("local", failed.id),
        result_key("local", UNKNOWN, 1, "0.png"),
        checkpoint_key("local", UNKNOWN),
    )
    young = await sweep(store, generations.published, before=datetime.now(UTC) - timedelta(days=1))
    assert (young.orphans, keys(store)) == (0, stays | goes)

    seen = await sweep(store, generations.published, before=in_an_hour(), dry_run=True)
    assert (seen.orphans, keys(store)) == (len(goes), stays | goes)

    swept = await sweep(store, generations.published, before=in_an_hour())
    assert keys(store) == stays
    assert (swept.orphans, swept.orphan_bytes, swept.strange) == (len(goes), 10 * len(goes), 1)


async def test_a_database_that_knows_nothing_of_it_deletes_nothing(
    store: ObjectStore, generations: GenerationStore
) -> None:
    await claimed(generations)
    there = put(store, result_key("local", UNKNOWN, 1, "0.png"))
    with pytest.raises(WrongDatabaseError):
        await sweep(store, generations.published, before=in_an_hour())
    assert keys(store) == there


async def test_an_empty_store_is_swept_at_once(
    store: ObjectStore, generations: GenerationStore
) -> None:
    assert (await sweep(store, generations.published, before=in_an_hour())).looked == 0


async def test_what_waited_for_proof_goes_with_it(
    store: ObjectStore, generations: GenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atelier.object_store.PAGE_KEYS", 2)
    orphans = put(store, *(result_key("a", UNKNOWN, n, "0.png") for n in range(5)))
    running = await claimed(generations)
    kept = put(store, result_key("z", running.id, running.lease_token or 0, "0.png"))
    swept = await sweep(store, generations.published, before=in_an_hour())
    assert (swept.orphans, keys(store)) == (len(orphans), kept)


async def test_uploads_that_never_ended_are_ended(
    store: ObjectStore, generations: GenerationStore
) -> None:
    def left() -> int:
        return len(store._client._list_multipart_uploads("atelier").uploads)

    store._client._create_multipart_upload("atelier", "results/a/b/1/0 ü.mp4", {})
    store._client._create_multipart_upload("atelier", "results/a/b/2/0.mp4", {})
    young = await sweep(store, generations.published, before=datetime.now(UTC) - timedelta(days=1))
    seen = await sweep(store, generations.published, before=in_an_hour(), dry_run=True)
    assert (young.uploads, seen.uploads, left()) == (0, 2, 2)
    swept = await sweep(store, generations.published, before=in_an_hour())
    assert (swept.uploads, left()) == (2, 0)
