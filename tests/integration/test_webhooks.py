"""Webhooks from the end of a generation to its receiver: a real outbox, workers and receivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from opentelemetry.metrics import NoOpMeterProvider
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from standardwebhooks import Webhook

from atelier.addresses import Rules
from atelier.database import Database
from atelier.egress import Egress, lookup
from atelier.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError
from atelier.generation import FINAL, Failure, Generation, State
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.webhook_store import MOST_WEBHOOKS, StoredWebhook, WebhookStore
from tests.support.generations import BY, RESULT, generation
from tests.support.ports import free_address
from tests.support.processes import Process
from tests.support.receiver import (
    Receiver,
    answering,
    dripping,
    endless,
    reset,
    silent,
)
from webhooks import post as post_module
from webhooks.outbox import Outbox
from webhooks.post import Poster
from webhooks.worker import Worker

LOOPBACK = Rules((ip_network("127.0.0.0/8"),), (), plain_http=True)
SECRET = "whsec_" + "c2VjcmV0" * 6
WHY = Failure("INTERNAL", "TEST", "a reason")
LANE = "SELECT failures, closed_until > now() AS closed FROM webhook_lanes"


class Bench:
    """The parts, and a look into the table behind them."""

    def __init__(self, dsn: str, generations: GenerationStore) -> None:
        self.dsn = dsn
        self.generations = generations
        self.webhooks = WebhookStore(generations.database)

    async def hook(self, url: str, tenant: str = "local", **changes: Any) -> StoredWebhook:
        wanted = {"events": tuple(FINAL), "include_prompts": False, "description": ""}
        return await self.webhooks.insert(
            tenant, str(uuid4()), SECRET, url=url, **{**wanted, **changes}
        )

    async def succeed(self, **changes: object) -> Generation:
        [g] = await self.generations.insert([generation(**changes)])
        claimed = await self.generations.claim(g.id, "d0")
        assert claimed and claimed.lease_token
        done = await self.generations.publish(g.id, claimed.lease_token, [RESULT], BY)
        assert done
        return done

    def rows(self, query: str = "SELECT * FROM webhook_deliveries ORDER BY seq") -> list[Any]:
        with psycopg.connect(self.dsn, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()  # type: ignore[call-overload]

    def change(self, statement: str) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    async def until(self, true: Callable[[list[Any]], bool], seconds: float = 20.0) -> list[Any]:
        async with asyncio.timeout(seconds):
            while not true(rows := self.rows()):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
        return rows

    async def ended(self, count: int) -> list[Any]:
        return await self.until(lambda rows: sum(bool(r["finish_time"]) for r in rows) >= count)

    @asynccontextmanager
    async def worker(self, rules: Rules = LOOPBACK, **egress: Any) -> AsyncIterator[Worker]:
        """One that works, with a line of its own."""
        async with Database(self.dsn) as database:
            poster = Poster(Egress(rules, **egress))
            worker = Worker(Outbox(database), poster, NoOpMeterProvider().get_meter("test"))
            task = asyncio.create_task(worker.run())
            try:
                yield worker
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await poster.close()


@pytest.fixture(scope="module")
async def shared(postgres: str) -> AsyncIterator[Bench]:
    name = f"t{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    dsn = make_conninfo(postgres, dbname=name)
    migrate(dsn)
    async with GenerationStore(dsn) as store:
        yield Bench(dsn, store)


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """With nothing in it: a database for each test would take most of their time."""
    shared.change(
        "TRUNCATE generations, webhooks, webhook_secrets, webhook_deliveries, webhook_lanes"
    )
    return shared


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


@pytest.mark.parametrize(
    ("behave", "status"),
    [
        (answering(500), 500),
        (answering(301, headers=(("location", "/elsewhere"),)), 301),
        (reset, 0),
    ],
)
async def test_a_failure_is_tried_again_by_the_schedule(
    bench: Bench, behave: Any, status: int
) -> None:
    async with Receiver(behave) as receiver, bench.worker():
        await bench.hook(receiver.url)
        await bench.succeed()
        [row] = await bench.until(lambda rows: rows[0]["attempts"] == 1)
        assert (row["status"], row["finish_time"]) == (status, None)
        assert 4.9 <= (row["next_time"] - row["attempt_time"]).total_seconds() <= 5.6
        bench.change("UPDATE webhook_deliveries SET next_time = now()")
        first, second = await receiver.until(2)
        await bench.ended(1)
    assert first.id == second.id and first.body == second.body
    assert [r.path for r in receiver.received] == ["/hook", "/hook"]  # no redirect was followed


async def test_who_asks_for_patience_has_it_and_who_is_gone_is_left(bench: Bench) -> None:
    busy = answering(429, headers=(("retry-after", "3600"),))
    async with Receiver(busy) as patient, Receiver(answering(410)) as gone, bench.worker():
        asks, leaves = await bench.hook(patient.url), await bench.hook(gone.url)
        await bench.succeed()
        rows = await bench.until(lambda rows: all(r["attempts"] for r in rows))
        later = next(r for r in rows if str(r["webhook_id"]) == asks.id)
        assert later["next_time"].timestamp() - later["attempt_time"].timestamp() >= 3_599
        ended = next(r for r in rows if str(r["webhook_id"]) == leaves.id)
        assert ended["finish_time"] and not ended["delivered"]
        [stored] = await bench.webhooks.read("local", leaves.id)
        assert not stored.enabled and "410" in stored.disabled_reason
        await bench.succeed()
        assert len(bench.rows()) == 3  # only who asked for patience is told of it
    with pytest.raises(FailedPreconditionError, match="enable it"):
        await bench.webhooks.redeliver("local", str(ended["id"]))


async def test_the_last_attempt_is_the_last(bench: Bench) -> None:
    async with Receiver(default=answering(500)) as receiver, bench.worker():
        await bench.hook(receiver.url)
        bench_lane = await bench.succeed()
        await receiver.until(1)
        await bench.until(lambda rows: rows[0]["attempts"] == 1)
        bench.change("UPDATE webhook_deliveries SET attempts = 9, next_time = now()")
        [row] = await bench.ended(1)
        assert row["attempts"] == 10 and not row["delivered"]
        again = await bench.webhooks.redeliver("local", str(row["id"]))
        assert again.attempts == 0 and again.finish_time is None
        await receiver.until(3)
    assert len({r.id for r in receiver.received}) == 1
    assert receiver.received[0].event["data"]["id"] == bench_lane.id


@pytest.mark.parametrize("behave", [endless, dripping])
async def test_an_answer_without_end_is_not_waited_for(
    bench: Bench, behave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_module, "READ_SECONDS", 0.3)
    async with Receiver(behave) as receiver, bench.worker():
        await bench.hook(receiver.url)
        await bench.succeed()
        [row] = await bench.ended(1)
    assert row["delivered"] and row["status"] == 200


async def test_what_is_compressed_is_not_unpacked(bench: Bench) -> None:
    bomb = answering(500, body=b"\x1f\x8b" * 5_000, headers=(("content-encoding", "gzip"),))
    async with Receiver(bomb) as receiver, bench.worker():
        await bench.hook(receiver.url)
        await bench.succeed()
        [row] = await bench.until(lambda rows: rows[0]["attempts"] == 1)
    assert (row["status"], row["detail"]) == (500, "")


async def test_who_is_silent_delays_nobody_else(bench: Bench) -> None:
    async with Receiver(default=silent) as slow, Receiver() as quick, bench.worker():
        await bench.hook(slow.url)
        await bench.hook(quick.url, tenant="other")
        for _ in range(10):
            await bench.succeed()
        await slow.until(2)  # and there they hang
        for _ in range(10):
            await bench.succeed(tenant="other")
        await quick.until(10)
        assert slow.most_at_once == 2 and len(slow.received) == 2


async def test_a_lane_that_breaks_is_left_alone(bench: Bench) -> None:
    async with Receiver(default=answering(500)) as receiver, bench.worker():
        await bench.hook(receiver.url)
        for _ in range(20):
            await bench.succeed()
        await bench.until(lambda rows: sum(r["attempts"] for r in rows) >= 3)
        await bench.until(lambda _: bool(bench.rows(LANE)[0]["closed"]))
        assert bench.rows(LANE)[0]["failures"] == len(receiver.received) <= 4
        receiver.default = answering(204)
        bench.change("UPDATE webhook_lanes SET closed_until = now()")
        bench.change("UPDATE webhook_deliveries SET next_time = now()")
        await bench.ended(20)
    assert bench.rows(LANE)[0]["failures"] == 0


async def test_several_workers_share_and_deliver_once(bench: Bench) -> None:
    async with Receiver() as one, Receiver() as two, bench.worker(), bench.worker(), bench.worker():
        await bench.hook(one.url)
        await bench.hook(two.url)
        for _ in range(20):
            await bench.succeed()
        await bench.ended(40)
    for receiver in (one, two):
        assert len(receiver.received) == 20 == len({r.id for r in receiver.received})
        assert receiver.most_at_once <= 2
        told = [r.event["data"]["finish_time"] for r in receiver.received]
        assert sorted(told)[:2] == sorted(told[:2])  # in order, but for the two at a time


async def test_what_a_dead_worker_left_unmarked_is_delivered_again(
    bench: Bench, tmp_path: Path
) -> None:
    address = free_address()
    process = Process(
        "webhooks",
        address,
        tmp_path / "webhooks.log",
        webhooks_listen=address,
        postgres_dsn=bench.dsn,
        webhook_allowed_networks='["127.0.0.0/8"]',
        webhook_allowed_ports="[]",
        webhook_allow_http="true",
    )

    async def kill(writer: asyncio.StreamWriter) -> None:
        process.kill()  # it posted, and cannot note it any more

    with process:
        async with Receiver(kill) as receiver:
            await bench.hook(receiver.url)
            await bench.succeed()
            await receiver.until(1)
            bench.change("UPDATE webhook_lanes SET leased_until = now()")  # 35 s later
            async with bench.worker():
                first, second = await receiver.until(2)
                [row] = await bench.ended(1)
    assert first.id == second.id and first.body == second.body
    assert row["attempts"] == 1 and row["delivered"]


async def test_in_a_rotation_both_secrets_sign(bench: Bench) -> None:
    other = "whsec_" + "bmV3bmV3" * 6
    async with Receiver() as receiver, bench.worker():
        hook = await bench.hook(receiver.url)
        await bench.webhooks.replace_secret("local", hook.id, other, 3_600)
        await bench.webhooks.replace_secret("local", hook.id, other, 3_600)  # sent again
        await bench.succeed()
        [got] = await receiver.until(1)
        for secret in (SECRET, other):
            Webhook(secret).verify(got.body, got.headers)
        await bench.webhooks.replace_secret("local", hook.id, "whsec_" + "dGhpcmQh" * 6, 0)
        await bench.succeed()
        _, got = await receiver.until(2)
    assert got.headers["webhook-signature"].count("v1,") == 1


async def test_a_name_that_has_another_address_by_then_is_not_asked(bench: Bench) -> None:
    """DNS rebinding: public when the webhook was made, and ours when it is used."""
    answers = [["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:7f00:1"]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    rules = Rules((), (), plain_http=True)
    async with Receiver() as receiver:
        url = f"http://hooks.example:{receiver.port}/hook"
        target, _ = await Egress(rules, rebinding).resolve(url)
        await bench.hook(target.url)
        async with bench.worker(rules, lookup=rebinding):
            for attempt in (1, 2, 3):
                if attempt == 1:
                    await bench.succeed()
                [row] = await bench.until(lambda rows, n=attempt: rows[0]["attempts"] == n)
                assert row["status"] == 0 and row["detail"].startswith("not asked: the URL must be")
                bench.change("UPDATE webhook_lanes SET failures = 0")
                if attempt < 3:
                    bench.change("UPDATE webhook_deliveries SET next_time = now()")
    assert receiver.received == [] and asked == ["hooks.example"] * 4


async def test_a_name_is_looked_up_once_and_told_to_the_server(bench: Bench) -> None:
    asked: list[str] = []

    async def here(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with Receiver() as receiver, bench.worker(lookup=here):
        await bench.hook(f"http://hooks.example:{receiver.port}/a?b=c")
        await bench.succeed()
        [got] = await receiver.until(1)
        await bench.ended(1)
    assert asked == ["hooks.example"]
    assert got.headers["host"] == f"hooks.example:{receiver.port}" and got.path == "/a?b=c"


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


async def test_what_ended_is_forgotten_and_history_may_go_before_it(bench: Bench) -> None:
    await bench.hook("http://a.example/")
    await bench.succeed()
    bench.change("DELETE FROM generation_events; DELETE FROM generations")  # as a dropped day
    outbox = Outbox(bench.generations.database)
    assert (await outbox.age())[0] == 1 and await outbox.forget() == 0
    bench.change("UPDATE webhook_deliveries SET finish_time = now() - interval '8 days'")
    assert await outbox.forget() == 1
    assert bench.rows() == []


async def test_no_name_is_an_answer_too(bench: Bench) -> None:
    async with bench.worker():
        await bench.hook("http://nowhere.invalid/")
        await bench.succeed()
        [row] = await bench.until(lambda rows: rows[0]["attempts"] == 1)
    assert row["detail"].startswith("not asked")
    assert await lookup("127.0.0.1", 80) == ["127.0.0.1"]
