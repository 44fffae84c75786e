"""The database that the simulation keeps in memory, held to PostgreSQL: the same operations, by the
same stores, give the same answers on both."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from atelier.database import Database
from atelier.errors import DeposedError
from atelier.generation import Failure, Generation
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.order_store import OrderStore
from tests.simulated.tables import Tables
from tests.support.generations import BY, RESULT, generation

WHY = Failure("INTERNAL", "TEST", "a reason")
REASONS = ("AGENT_LOST", "PREEMPTED")


class _InMemory:
    """The port of a Database, over tables."""

    def __init__(self, tables: Tables) -> None:
        self.epoch: int | None = None
        self._tables = tables

    async def rows(self, query: str, **arguments: Any) -> Any:
        return self._tables.run(query, {"epoch": self.epoch, **arguments})


@dataclass
class Side:
    """One of the two. `tokens`: that it gave, in order; `latest`: what was claimed last."""

    database: Any
    store: GenerationStore
    orders: OrderStore
    tokens: list[int] = field(default_factory=lambda: [0])
    latest: str = ""


def side(database: Any) -> Side:
    store = GenerationStore.__new__(GenerationStore)
    store.database = database
    return Side(database, store, OrderStore(database))


@pytest.fixture
async def both(dsn: str) -> AsyncIterator[list[Side]]:
    migrate(dsn)
    tables = Tables(lambda: datetime.now(UTC), itertools.count().__next__)
    async with Database(dsn, connections=2) as real:
        yield [side(real), side(_InMemory(tables))]


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_operations_give_the_same_answers(both: list[Side], seed: int) -> None:
    rng, made = Random(seed), list[Generation]()
    moved = set[str]()
    for number in range(400):
        name, do = _operation(rng, made)
        answers = [await _answer(one, do) for one in both]
        assert answers[0] == answers[1], (seed, number, name)
        if answers[0] not in (None, [], "deposed"):
            moved.add(name)
        assert len(both[0].tokens) == len(both[1].tokens)
        standing = [
            [(i, t and s.tokens.index(t)) for i, t in sorted((await s.store.standing()).items())]
            for s in both
        ]
        assert standing[0] == standing[1], (seed, number, name)
    assert moved >= {"insert", "claim", "requeue", "cancel", "lead"}


Operation = Callable[[Side], Awaitable[Any]]


def _operation(rng: Random, made: list[Generation]) -> tuple[str, Operation]:
    """Drawn once, then done on both. A token is named by when it was drawn: sequences differ."""
    if not made or rng.random() < 0.15:
        group = [_new(rng, made) for _ in range(rng.randint(1, 3))]
        made += group
        return "insert", lambda s: s.store.insert(group)
    g, at, reason = rng.choice(made[-6:]), rng.choice(("d0", "d1")), rng.choice(REASONS)
    epoch, nth = rng.choice((None, None, None, 0, 1, 2)), rng.choice((-1, -1, -1, -1, -2))
    seconds, unrenewed = rng.choice((-1.0, -1.0, 1.0, 3_600.0)), rng.random() < 0.3
    running, tenant = rng.random() < 0.7, rng.choice(("local", "local", "other"))

    def which(s: Side) -> str:
        """Mostly the one that was claimed last, so that guards also let pass."""
        return s.latest if running and s.latest else g.id

    def token(s: Side) -> int:
        return s.tokens[max(nth, -len(s.tokens))]

    choices: dict[str, Operation] = {
        "claim": lambda s: s.store.claim(g.id, at),
        "publish": lambda s: s.store.publish(which(s), token(s), [RESULT], BY),
        "requeue": lambda s: s.store.requeue(which(s), token(s), reason),
        "fail": lambda s: s.store.fail(which(s), token(s) if running else None, WHY),
        "expire": lambda s: s.store.expire(which(s), WHY),
        "cancel": lambda s: s.store.request_cancel(tenant, which(s)),
        "stopped": lambda s: s.store.cancel_running(which(s), token(s)),
        "read": lambda s: s.store.read("local", g.id),
        "look": lambda s: s.store.look(g.id),
        "unfinished": lambda s: s.store.unfinished(),
        "times": lambda s: s.store.requeued_for(g.id, [reason]),
        "lead": lambda s: _lead(s, at, seconds, unrenewed=unrenewed),
        "renew": lambda s: s.database.rows("renew", lease_seconds=seconds),
        "resign": lambda s: s.database.rows("resign"),
        "leader": lambda s: _leader(s),
        "epoch": lambda s: _write_as(s, epoch),
        "drain": lambda s: s.orders.drain(at, reason),
        "undrain": lambda s: s.orders.undrain(at),
        "pin": lambda s: s.orders.pin(at, "toy"),
        "unpin": lambda s: s.orders.unpin(at, "toy"),
        "orders": lambda s: s.orders.read(),
    }
    often = ["claim", "claim", "fail", "requeue", "cancel", "stopped"] * 3
    name = rng.choice([*choices, *often])
    return name, choices[name]


def _new(rng: Random, made: list[Generation]) -> Generation:
    past, future = (datetime.now(UTC) + timedelta(hours=h) for h in (-1, 1))
    return generation(
        tenant=rng.choice(("local", "other")),
        request_id=rng.choice(("", "", *(f"k{len(made) // 4 - i}" for i in range(3)))),
        deadline=rng.choice((None, past, future)),
    )


async def _leader(s: Side) -> Any:
    [row] = await s.database.rows("leader")
    return {name: value for name, value in row.items() if name != "until"}


async def _lead(s: Side, holder: str, seconds: float, *, unrenewed: bool) -> Any:
    [row] = await s.database.rows("leader")
    until = row["until"] if unrenewed else ""
    return await s.database.rows("lead", holder=holder, lease_seconds=seconds, unrenewed=until)


async def _write_as(s: Side, epoch: int | None) -> None:
    s.database.epoch = epoch


async def _answer(s: Side, do: Operation) -> Any:
    try:
        return _comparable(await do(s), s)
    except DeposedError:
        return "deposed"


def _comparable(answer: Any, s: Side) -> Any:
    """Without what differs by its nature: times of the database, and numbers of its sequence."""
    if isinstance(answer, list):
        return [_comparable(one, s) for one in answer]
    if not isinstance(answer, Generation):
        return answer
    if answer.lease_token and answer.lease_token not in s.tokens:
        s.tokens.append(answer.lease_token)
        s.latest = answer.id
    return replace(
        answer,
        lease_token=answer.lease_token and s.tokens.index(answer.lease_token),
        start_time=answer.start_time and answer.create_time,
        finish_time=answer.finish_time and answer.create_time,
    )


@pytest.mark.parametrize("end", ["publish", "fail", "stop", "expire"])
async def test_nothing_leaves_a_final_state_in_memory_as_there(both: list[Side], end: str) -> None:
    for one in both:
        [g] = await one.store.insert([generation(deadline=datetime.now(UTC) - timedelta(hours=1))])
        row = await one.store.claim(g.id, "d0")
        assert row and row.lease_token
        if end == "stop":
            await one.store.request_cancel("local", g.id)
            assert await one.store.requeue(g.id, row.lease_token, "LOST") is None
        ended = _ends(one, g, row.lease_token)[end]()
        assert (await ended).state.final  # type: ignore[union-attr]
        again = [await other() for other in _ends(one, g, row.lease_token).values()]
        assert again == [None] * 6


def _ends(one: Side, g: Generation, token: int) -> dict[str, Callable[[], Any]]:
    store = one.store
    return {
        "publish": lambda: store.publish(g.id, token, [RESULT], BY),
        "fail": lambda: store.fail(g.id, token, WHY),
        "stop": lambda: store.cancel_running(g.id, token),
        "expire": lambda: store.expire(g.id, WHY),
        "claim": lambda: store.claim(g.id, "d0"),
        "cancel": lambda: store.request_cancel("local", g.id),
    }
