"""The store against a real PostgreSQL: guards, fences, idempotency."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from atelier.errors import StorageRefusedError, UnavailableError
from atelier.generation import TRANSITIONS, Failure, State
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from tests.support.generations import BY, RESULT, generation

WHY = Failure("INTERNAL", "TEST", "a reason")


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[GenerationStore]:
    migrate(dsn)
    async with GenerationStore(dsn) as store:
        yield store


async def test_migrations_are_applied_once(dsn: str) -> None:
    assert migrate(dsn)
    assert migrate(dsn) == []


async def test_what_goes_in_comes_out(store: GenerationStore) -> None:
    sent = generation(labels={"a": "b"}, request_id="r", deadline=datetime.now(UTC))
    assert await store.insert([sent]) == [sent]
    assert await store.read("local", sent.id) == sent
    assert await store.read("other", sent.id) is None


async def test_sending_an_insert_again_changes_nothing(store: GenerationStore) -> None:
    sent = [generation() for _ in range(3)]
    assert await store.insert(sent) == sent == await store.insert(sent)


async def test_fifty_at_once_with_one_key_make_one_generation(store: GenerationStore) -> None:
    rivals = [generation(request_id="same") for _ in range(50)]
    answers = await asyncio.gather(*(store.insert([rival]) for rival in rivals))
    assert len({answer.id for [answer] in answers}) == 1


async def test_one_key_twice_in_one_group(store: GenerationStore) -> None:
    first, second = generation(request_id="same"), generation(request_id="same")
    a, b = await store.insert([first, second])
    assert a == b and a.id in (first.id, second.id)


async def test_a_key_is_its_tenant_s_own(store: GenerationStore) -> None:
    a, b = await store.insert(
        [generation(request_id="k", tenant="a"), generation(request_id="k", tenant="b")]
    )
    assert a.id != b.id


async def test_each_claim_has_a_higher_token(store: GenerationStore) -> None:
    [g] = await store.insert([generation()])
    first = await store.claim(g.id, "d0")
    assert first and first.lease_token and first.attempt == 1 and first.state is State.RUNNING
    assert await store.claim(g.id, "d1") is None
    assert await store.requeue(g.id, first.lease_token, "test")
    second = await store.claim(g.id, "d1")
    assert second and second.lease_token and second.lease_token > first.lease_token
    assert second.attempt == 2


async def test_who_lost_the_attempt_can_change_nothing(store: GenerationStore) -> None:
    [g] = await store.insert([generation()])
    first = await store.claim(g.id, "d0")
    assert first and first.lease_token
    zombie = first.lease_token
    await store.requeue(g.id, zombie, "lost")
    second = await store.claim(g.id, "d1")
    assert second and second.lease_token
    assert await store.publish(g.id, zombie, [RESULT], BY) is None
    assert await store.fail(g.id, zombie, WHY) is None
    assert await store.requeue(g.id, zombie, "again") is None
    assert await store.cancel_running(g.id, zombie) is None
    assert await store.read("local", g.id) == second
    published = await store.publish(g.id, second.lease_token, [RESULT], BY)
    assert published and published.state is State.SUCCEEDED and published.results == (RESULT,)
    assert await store.publish(g.id, second.lease_token, [RESULT], BY) is None


async def test_cancel_of_a_queued_one_is_final(store: GenerationStore) -> None:
    [g] = await store.insert([generation()])
    cancelled = await store.request_cancel("local", g.id)
    assert cancelled and cancelled.state is State.CANCELLED and cancelled.finish_time
    assert await store.claim(g.id, "d0") is None
    assert await store.request_cancel("local", g.id) is None


async def test_cancel_of_a_running_one_waits_for_its_agent(store: GenerationStore) -> None:
    [g] = await store.insert([generation()])
    claimed = await store.claim(g.id, "d0")
    assert claimed and claimed.lease_token
    assert await store.request_cancel("other", g.id) is None
    asked = await store.request_cancel("local", g.id)
    assert asked and asked.state is State.RUNNING and asked.cancel_requested
    assert await store.requeue(g.id, claimed.lease_token, "lost") is None
    ended = await store.cancel_running(g.id, claimed.lease_token)
    assert ended and ended.state is State.CANCELLED


async def test_expiry_goes_by_the_database_s_clock(store: GenerationStore) -> None:
    now = datetime.now(UTC)
    past, future = await store.insert(
        [generation(deadline=now - timedelta(1)), generation(deadline=now + timedelta(1))]
    )
    expired = await store.expire(past.id, WHY)
    assert expired and expired.state is State.EXPIRED and expired.failure == WHY
    assert await store.expire(future.id, WHY) is None


async def test_scan_filters_and_pages(store: GenerationStore) -> None:
    rows = await store.insert(
        [generation(labels={"n": str(i)}, model="ab"[i % 2]) for i in range(6)]
    )
    await store.insert([generation(tenant="other")])
    newest_first = [row.id for row in reversed(rows)]
    assert [g.id for g in await store.scan("local", before_id=None, limit=4)] == newest_first[:4]
    rest = await store.scan("local", before_id=newest_first[3], limit=9)
    assert [g.id for g in rest] == newest_first[4:]
    only = await store.scan("local", before_id=None, limit=9, model="a", labels={"n": "2"})
    assert [g.id for g in only] == [rows[2].id]
    assert await store.scan("local", before_id=None, limit=9, states=[State.FAILED]) == []
    since = await store.scan("local", before_id=None, limit=9, created_after=rows[0].create_time)
    assert len(since) == 6


async def test_what_passes_is_away_and_what_does_not_is_refused(
    store: GenerationStore, dsn: str
) -> None:
    [g] = await store.insert([generation()])
    with pytest.raises(StorageRefusedError):
        await store.fail(g.id, None, Failure("INTERNAL", "TEST", "a\0b"))
    with pytest.raises(StorageRefusedError):
        await store.scan("local", before_id=None, limit=1, model="a\0b")
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # type: ignore[call-overload]
    async with GenerationStore(dsn) as failed_over:
        with pytest.raises(UnavailableError):
            await failed_over.claim(g.id, "d0")


async def test_the_last_day_of_time_is_read_in_any_time_zone(dsn: str) -> None:
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Shanghai'")  # type: ignore[call-overload]
    migrate(dsn)
    async with GenerationStore(dsn) as store:
        sent = generation(deadline=datetime(9999, 12, 31, 23, tzinfo=UTC))
        assert await store.insert([sent]) == [sent] == await store.unfinished()


async def test_what_stands_is_what_is_not_ended(store: GenerationStore) -> None:
    waits, runs, ended = await store.insert([generation() for _ in range(3)])
    claimed = await store.claim(runs.id, "d0")
    assert claimed
    await store.request_cancel("local", ended.id)
    assert await store.standing() == {waits.id: None, runs.id: claimed.lease_token}
    assert await store.look(runs.id) == claimed


async def test_many_rows_are_read_in_pieces(
    store: GenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atelier.database.ROWS_AT_ONCE", 2)
    for count in (1, 2, 5):
        made = await store.insert([generation() for _ in range(count)])
        standing = await store.standing()
        assert standing.keys() >= {one.id for one in made}
    assert len(standing) == 8


async def test_every_step_is_told_as_an_event(store: GenerationStore, dsn: str) -> None:
    [g] = await store.insert([generation()])
    claimed = await store.claim(g.id, "d0")
    assert claimed and claimed.lease_token
    await store.publish(g.id, claimed.lease_token, [RESULT], BY)
    with psycopg.connect(dsn) as connection:
        events = connection.execute("SELECT event FROM generation_events ORDER BY seq").fetchall()
    assert events == [("submit",), ("claim",), ("publish",)]


async def test_the_table_refuses_what_the_state_machine_has_not(
    store: GenerationStore, dsn: str
) -> None:
    [g] = await store.insert([generation()])
    with psycopg.connect(dsn) as connection:
        for state in ("RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "NONSENSE"):
            with pytest.raises(psycopg.errors.CheckViolation), connection.transaction():
                connection.execute("UPDATE generations SET state = %s", (state,))
    assert await store.read("local", g.id) == g


def test_final_states_have_no_way_out() -> None:
    assert all(not transition.source.final for transition in TRANSITIONS)
