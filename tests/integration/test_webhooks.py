"""What is told to whom: a real outbox, written with the ends of generations, and who may see it."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
from standardwebhooks import Webhook

from atelier.errors import NotFoundError, ResourceExhaustedError
from atelier.generation import Failure, State
from atelier.webhook_store import MOST_WEBHOOKS
from tests.support.generations import RESULT, generation
from tests.support.outbox import SECRET, Bench
from tests.support.receiver import Receiver

WHY = Failure("INTERNAL", "TEST", "a reason")


async def test_an_end_is_told_signed_and_without_the_prompt(bench: Bench) -> None:
    async with Receiver() as receiver, bench.worker():
        await bench.hook(receiver.url)
        done = await bench.succeed(labels={"a": "b"}, request_id="r")
        [got] = await receiver.until(1)
        [row] = await bench.ended(1)
    assert Webhook(SECRET).verify(got.body, got.headers) == got.event  # the library's own verifier
    assert got.event["type"] == "generation.succeeded"
    data = got.event["data"]
    assert (data["id"], data["labels"], data["request_id"]) == (done.id, {"a": "b"}, "r")
    assert data["results"][0]["object_key"] == RESULT.object_key
    assert b"red circle" not in got.body
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert row["delivered"] and row["status"] == 204 and str(row["id"]) == got.id


async def test_each_way_to_an_end_is_written_with_it_for_who_wants_it(bench: Bench) -> None:
    every = await bench.hook("http://a.example/", include_prompts=True)
    await bench.hook("http://b.example/", events=(State.FAILED,))
    await bench.hook("http://c.example/", tenant="other")
    off = await bench.hook("http://d.example/")
    await bench.webhooks.change(
        "local", off.id, url=None, events=(), include_prompts=None, description=None, enabled=False
    )
    store = bench.generations
    failed, cancelled, stopped, expired = await store.insert(
        [generation(), generation(), generation(), generation(deadline=generation().create_time)]
    )
    await store.fail(failed.id, None, WHY)
    await store.request_cancel("local", cancelled.id)
    claimed = await store.claim(stopped.id, "d0")
    assert claimed and claimed.lease_token
    await store.request_cancel("local", stopped.id)  # only the wish: nothing is told yet
    assert len(bench.rows()) == 3
    await store.cancel_running(stopped.id, claimed.lease_token)
    await store.expire(expired.id, WHY)
    await store.fail(failed.id, None, WHY)  # refused: it has ended
    rows = bench.rows()
    told = [r for r in rows if str(r["webhook_id"]) == every.id]
    assert [(r["type"], str(r["generation_id"])) for r in told] == [
        ("generation.failed", failed.id),
        ("generation.cancelled", cancelled.id),
        ("generation.cancelled", stopped.id),
        ("generation.expired", expired.id),
    ]
    assert len(rows) == 5
    assert all(r["data"]["prompt"] == "a red circle" for r in told)


async def test_what_is_not_committed_is_not_told(bench: Bench) -> None:
    await bench.hook("http://a.example/")
    [g] = await bench.generations.insert([generation()])
    with psycopg.connect(bench.dsn) as connection:
        connection.execute(
            "UPDATE generations SET state = 'CANCELLED', finish_time = now() WHERE id = %s", [g.id]
        )
        assert connection.execute("SELECT count(*) FROM webhook_deliveries").fetchone() == (1,)
        connection.rollback()
    assert bench.rows() == []


async def test_a_tenant_sees_only_its_own(bench: Bench) -> None:
    mine = await bench.hook("http://a.example/")
    await bench.succeed()
    [row] = bench.rows()
    store, theirs = bench.webhooks, "other"
    assert await store.read(theirs, mine.id) == [] == await store.read(theirs)
    assert await store.deliveries(theirs, limit=9) == []
    for attempt in (
        store.delete(theirs, mine.id),
        store.replace_secret(theirs, mine.id, SECRET, 0),
        store.insert_test(theirs, mine.id, str(uuid4())),
        store.redeliver(theirs, str(row["id"])),
        store.change(
            theirs, mine.id, url="http://b.example/", events=(), include_prompts=None,
            description=None, enabled=False,
        ),
    ):  # fmt: skip
        with pytest.raises(NotFoundError, match="there is no"):
            await attempt
    assert await store.read("local") == [mine]


async def test_there_is_an_end_to_a_tenant_s_webhooks(bench: Bench) -> None:
    for _ in range(MOST_WEBHOOKS):
        await bench.hook("http://a.example/")
    with pytest.raises(ResourceExhaustedError, match="delete one"):
        await bench.hook("http://a.example/")
    await bench.hook("http://a.example/", tenant="other")


async def test_what_was_told_goes_with_its_generation(bench: Bench) -> None:
    await bench.hook("http://a.example/")
    told, waits = await bench.succeed(), await bench.succeed()
    bench.change(
        f"UPDATE webhook_deliveries SET finish_time = now() WHERE generation_id = '{told.id}'"
    )
    erase = bench.generations.database.rows
    for tenant, left in (("other", 2), ("local", 1)):
        await erase("erase", tenant=tenant, ids=[told.id, waits.id], keep_keys=False)
        assert len(bench.rows()) == left
    assert str(bench.rows()[0]["generation_id"]) == waits.id
