"""Leases and the fence, against a real PostgreSQL: whoever led before can write nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest
from opentelemetry.metrics import NoOpMeterProvider

from atelier.database import Database
from atelier.errors import DeposedError
from atelier.generation import Failure, Generation
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.order_store import OrderStore
from scheduler.leadership import (
    LOOK_SECONDS,
    PATIENCE_SECONDS,
    RENEW_SECONDS,
    UNRENEWED_SECONDS,
    Leadership,
    LeadershipLostError,
)
from tests.support.generations import BY, RESULT, generation

METER = NoOpMeterProvider().get_meter("test")
WHY = Failure("INTERNAL", "TEST", "a reason")


@pytest.fixture
async def lease(dsn: str) -> AsyncIterator[Database]:
    migrate(dsn)
    async with Database(dsn, connections=4) as database:
        yield database


@pytest.fixture
async def store(dsn: str, lease: Database) -> AsyncIterator[GenerationStore]:
    """Of a leader of epoch 1."""
    async with GenerationStore(dsn) as store:
        store.database.epoch = await Leadership(lease, "a", meter=METER).won()
        yield store


async def taken_over(dsn: str) -> int:
    """Another takes the lease, as if it had run out."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute(
            "UPDATE leader SET epoch = epoch + 1, holder = 'b' RETURNING epoch"
        )
        [epoch] = await cursor.fetchone() or ()
        return int(epoch)


async def test_one_leads_and_the_next_waits_for_its_lease(dsn: str, lease: Database) -> None:
    assert await Leadership(lease, "a", meter=METER).won() == 1
    # By its own clock no time passes, so that it goes by the lease and nothing else.
    standby = Leadership(lease, "b", meter=METER, clock=lambda: 0.0)
    waiting = asyncio.create_task(standby.won())
    done, _ = await asyncio.wait([waiting], timeout=1.0)
    assert not done
    async with asyncio.timeout(10):
        assert await waiting == 2


async def test_who_resigns_is_followed_at_once_and_who_comes_back_waits_for_nobody(
    dsn: str, lease: Database
) -> None:
    first = Leadership(lease, "a", meter=METER)
    await first.won()
    await first.resign()
    [row] = await lease.rows("leader")
    assert not row["leads"]
    async with Database(dsn, connections=1) as other:
        assert await Leadership(other, "b", meter=METER).won() == 2
        assert await Leadership(other, "b", meter=METER).won() == 3  # killed, and started again
        await first.resign()  # a late word of who led before
        [row] = await lease.rows("leader")
        assert row["leads"] and row["epoch"] == 3


async def test_who_lives_is_not_deposed_by_another_of_the_same_name(
    dsn: str, lease: Database
) -> None:
    first = Leadership(lease, "a", meter=METER)
    await first.won()
    renewing = asyncio.create_task(first.run())
    async with Database(dsn, connections=1) as other:
        waiting = asyncio.create_task(Leadership(other, "a", meter=METER).won())
        done, _ = await asyncio.wait([waiting, renewing], timeout=4.0)
        assert not done
        renewing.cancel()
        async with asyncio.timeout(10):
            assert await waiting == 2


async def test_a_clock_that_goes_back_keeps_a_lease_no_longer_than_it_is_renewed(
    dsn: str, lease: Database
) -> None:
    """The database's; a leader that is gone would otherwise be waited for an hour."""
    now, renewals = 0.0, 100

    async def sleep(seconds: float) -> None:
        nonlocal now, renewals
        now += seconds
        renewals -= 1
        if renewals > 0:
            await lease.rows("renew", lease_seconds=3_600.0)

    await Leadership(lease, "a", meter=METER).won()
    async with Database(dsn, connections=1) as other:
        standby = Leadership(other, "b", meter=METER, clock=lambda: now, sleep=sleep)
        async with asyncio.timeout(10):
            assert await standby.won() == 2
    assert UNRENEWED_SECONDS <= now - 100 * LOOK_SECONDS <= UNRENEWED_SECONDS + 1


async def test_the_row_is_there_before_anybody_leads(lease: Database) -> None:
    """Two that start over an empty database at once must not both make it."""
    [row] = await lease.rows("leader")
    assert (row["epoch"], row["leads"]) == (0, False)


async def test_of_many_at_once_one_leads(dsn: str, lease: Database) -> None:
    rivals = [asyncio.create_task(Leadership(lease, f"r{i}", meter=METER).won()) for i in range(20)]
    await asyncio.wait(rivals, timeout=1.5)
    assert [rival.result() for rival in rivals if rival.done()] == [1]
    for rival in rivals:
        rival.cancel()
    await asyncio.gather(*rivals, return_exceptions=True)


async def test_a_lease_that_ran_out_and_was_not_taken_is_renewed(dsn: str, lease: Database) -> None:
    leadership = Leadership(lease, "a", meter=METER)
    await leadership.won()
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE leader SET expires_at = '-infinity'")
    running = asyncio.create_task(leadership.run())
    done, _ = await asyncio.wait([running], timeout=2 * RENEW_SECONDS)
    assert not done and (await lease.rows("leader"))[0]["leads"]
    await taken_over(dsn)
    async with asyncio.timeout(10):
        with pytest.raises(LeadershipLostError, match="another"):
            await running


async def test_who_cannot_renew_for_long_steps_down(dsn: str, lease: Database) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        await asyncio.sleep(0)

    leadership = Leadership(lease, "a", meter=METER, clock=lambda: now, sleep=sleep)
    await leadership.won()
    await lease.close()  # nobody answers any more
    with pytest.raises(LeadershipLostError, match="not renewed for"):
        async with asyncio.timeout(30):
            await leadership.run()
    assert now >= PATIENCE_SECONDS


PAST, LAST = "20000101", "f" * 32  # a day's name; the highest id
Write = Callable[[GenerationStore, Generation], Awaitable[object]]
WRITES: dict[str, Write] = {
    "insert": lambda s, g: s.insert([generation()]),
    "claim": lambda s, g: s.claim(g.id, "d0"),
    "publish": lambda s, g: s.publish(g.id, g.lease_token or 0, [RESULT], BY),
    "requeue": lambda s, g: s.requeue(g.id, g.lease_token or 0, "why"),
    "fail": lambda s, g: s.fail(g.id, g.lease_token, WHY),
    "expire": lambda s, g: s.expire(g.id, WHY),
    "request_cancel": lambda s, g: s.request_cancel("local", g.id),
    "cancel_running": lambda s, g: s.cancel_running(g.id, g.lease_token or 0),
    "drain": lambda s, g: OrderStore(s.database).drain("d0", "why"),
    "undrain": lambda s, g: OrderStore(s.database).undrain("d1"),
    "pin": lambda s, g: OrderStore(s.database).pin("d0", "toy"),
    "unpin": lambda s, g: OrderStore(s.database).unpin("d1", "toy"),
    "make_days": lambda s, g: s.database.rows("make_days", ahead=9, span=1),
    "forget_keys": lambda s, g: s.database.rows("forget_keys", first=g.id, beyond=LAST, limit=1),
    "drop_day": lambda s, g: s.database.rows("drop_day", name=PAST, retention_days=1),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("running", [False, True])
async def test_who_led_before_can_write_nothing(
    store: GenerationStore, dsn: str, name: str, running: bool
) -> None:
    orders = OrderStore(store.database)
    await orders.drain("d1", "why")
    await orders.pin("d1", "toy")
    [g] = await store.insert([generation(request_id="k")])
    g = (await store.claim(g.id, "d0") if running else g) or g
    with psycopg.connect(dsn) as connection:  # a day long past
        connection.execute(
            "UPDATE generation_days SET since = '2000-01-02' WHERE since < '2000-01-02'"
        )
        connection.execute("CREATE TABLE generations_20000101 ()")
        connection.execute("CREATE TABLE generation_events_20000101 ()")
        connection.execute(
            "INSERT INTO generation_days VALUES (%s, '2000-01-01Z', '2000-01-02Z')", (PAST,)
        )
    await taken_over(dsn)

    def everything() -> list[object]:
        with psycopg.connect(dsn) as connection:
            tables = ("generations", "generation_events", "drained_devices", "pinned_models",
                      "request_keys", "generation_days", "last_order", "pg_tables")  # fmt: skip
            return [connection.execute(f"SELECT * FROM {t}").fetchall() for t in tables]

    before = everything()
    with pytest.raises(DeposedError):
        await WRITES[name](store, g)
    assert everything() == before
    assert await store.look(g.id) == g  # reading is free


def test_every_statement_that_writes_is_fenced(store: GenerationStore) -> None:
    elections = {"lead", "renew", "resign"}
    # Theirs is the lease of a lane (atelier/sql/webhooks.sql); they follow no scheduler.
    workers = {
        "claim_lanes", "attempted", "webhook_is_gone", "release_lane", "forget_deliveries",
    }  # fmt: skip
    for name, query in store.database.queries.items():
        code = re.sub("--.*", "", query)
        writes = re.search(r"\b(INSERT INTO|UPDATE|DELETE FROM|make_days\(|drop_day\()", code)
        assert name in elections | workers or not writes or "fenced(%(epoch)s" in query, name


async def test_taking_over_waits_for_a_write_under_way(store: GenerationStore, dsn: str) -> None:
    """The other order of finding: the write was allowed, so it is there before anybody leads."""
    [g] = await store.insert([generation()])
    with psycopg.connect(dsn) as blocker:
        blocker.execute("SELECT FROM generations WHERE id = %s FOR UPDATE", (g.id,))
        writing = asyncio.create_task(store.claim(g.id, "d0"))
        await asyncio.sleep(0.3)  # it holds the fence, and waits for the row
        taking = asyncio.create_task(taken_over(dsn))
        done, _ = await asyncio.wait([writing, taking], timeout=0.7)
        assert not done
        blocker.rollback()
    async with asyncio.timeout(10):
        claimed, epoch = await asyncio.gather(writing, taking)
    assert claimed and claimed.lease_token and epoch == 2


async def test_a_write_that_waits_for_who_takes_over_is_refused(
    store: GenerationStore, dsn: str
) -> None:
    [g] = await store.insert([generation()])
    with psycopg.connect(dsn) as taking:
        taking.execute("UPDATE leader SET epoch = epoch + 1")
        writing = asyncio.create_task(store.claim(g.id, "d0"))
        done, _ = await asyncio.wait([writing], timeout=0.5)
        assert not done
    with pytest.raises(DeposedError):
        async with asyncio.timeout(10):
            await writing


async def test_renewing_waits_for_no_write(store: GenerationStore, dsn: str) -> None:
    [g] = await store.insert([generation()])
    with psycopg.connect(dsn) as blocker:
        blocker.execute("SELECT FROM generations WHERE id = %s FOR UPDATE", (g.id,))
        writing = asyncio.create_task(store.claim(g.id, "d0"))
        await asyncio.sleep(0.3)
        async with Database(dsn, connections=1) as lease:
            lease.epoch = 1
            async with asyncio.timeout(1.0):
                assert await lease.rows("renew", lease_seconds=3.0)
        blocker.rollback()
    assert await writing
