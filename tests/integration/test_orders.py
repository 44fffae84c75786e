"""Operators' orders where the database does not acknowledge what it took, or took nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from atelier.errors import FailedPreconditionError, NotFoundError, UnavailableError
from atelier.order_store import OrderStore, StandingOrders
from scheduler.orders import Orders
from tests.support.house import House, house_over


class LostAcknowledgements(OrderStore):
    """Of the next `losses` writes, none is acknowledged; `written`: whether they are made."""

    losses, written = 0, True

    async def _lose(self, write: Callable[..., Any], *arguments: str) -> Any:
        if not self.losses:
            return await write(*arguments)
        self.losses -= 1
        if self.written:
            await write(*arguments)
        raise UnavailableError("the acknowledgement was lost")

    async def drain(self, device_id: str, reason: str) -> None:
        await self._lose(super().drain, device_id, reason)

    async def pin(self, device_id: str, model: str) -> None:
        await self._lose(super().pin, device_id, model)


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with house_over(dsn) as house:
        house.join()
        yield house


@pytest.fixture
def store(house: House) -> LostAcknowledgements:
    return LostAcknowledgements(house.store.database)


@pytest.fixture
def orders(house: House, store: LostAcknowledgements) -> Orders:
    return Orders(store, house.live, house.background)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(5.0):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_the_core_follows_a_drain_that_was_written(
    house: House, store: LostAcknowledgements, orders: Orders
) -> None:
    store.losses = 1
    with pytest.raises(UnavailableError):
        await orders.drain("d0", "new fans")
    await until(lambda: house.live.sched.devices["d0"].drained == "new fans")


@pytest.mark.parametrize("written", [True, False])
async def test_the_core_follows_a_pin_whether_it_was_written_or_not(
    house: House, store: LostAcknowledgements, orders: Orders, written: bool
) -> None:
    store.losses, store.written = 1, written
    with pytest.raises(UnavailableError):
        await orders.pin("toy", "d0")
    await until(lambda: not len(house.background))
    assert house.live.sched.devices["d0"].pinned == ({"toy"} if written else set())


async def test_what_the_core_refuses_is_not_written(house: House, orders: Orders) -> None:
    house.join(capacity=100)
    with pytest.raises(FailedPreconditionError):
        await orders.pin("toy", "d0")
    assert await OrderStore(house.store.database).read() == StandingOrders({}, {})


async def test_a_pin_of_a_model_that_is_served_no_more_waits_and_can_be_taken_back(
    house: House, store: LostAcknowledgements, orders: Orders
) -> None:
    for device_id in ("d0", "away"):
        await store.pin(device_id, "gone")
        await orders.take_up()
        assert not house.live.sched.pinned.get(device_id)
        await orders.unpin("gone", device_id)
        assert await store.read() == StandingOrders({}, {})
        with pytest.raises(NotFoundError):
            await orders.unpin("gone", device_id)


async def test_orders_follow_one_another(
    house: House, store: LostAcknowledgements, orders: Orders
) -> None:
    """Whatever their writes overtake, the core and the database end with the same one."""
    await asyncio.gather(*(orders.drain("d0", f"reason {n}") for n in range(10)))
    stands = (await store.read()).drained["d0"]
    assert house.live.sched.devices["d0"].drained == stands


async def test_a_drain_that_comes_late_does_not_stand_after_the_undrain(house: House) -> None:
    """Its line broke; PostgreSQL carries it out when the undrain has been acknowledged."""
    database = house.store.database
    store = OrderStore(database)
    [late] = await database.rows("next_order")
    await store.undrain("d0")
    told = await database.rows("drain", device_id="d0", reason="late", number=late["number"])
    assert told == [{"is_latest": False, "changed": False}]
    assert await store.read() == StandingOrders({}, {})


async def test_an_undrain_sees_the_drain_that_it_waited_for(house: House, dsn: str) -> None:
    database = house.store.database
    store = OrderStore(database)
    [late] = await database.rows("next_order")
    async with await psycopg.AsyncConnection.connect(dsn) as line:
        arguments = {"epoch": None, "device_id": "d0", "reason": "late", **late}
        await line.execute(database.queries["drain"], arguments)
        undraining = asyncio.create_task(store.undrain("d0"))
        done, _ = await asyncio.wait([undraining], timeout=0.5)
        assert not done
        await line.commit()
    async with asyncio.timeout(5.0):
        await undraining
    assert await store.read() == StandingOrders({}, {})


async def test_an_order_that_another_overtakes_is_not_told_to_stand(house: House) -> None:
    database = house.store.database

    class Overtaken(OrderStore):
        async def _write(self, order: str, **arguments: Any) -> bool:
            real = database.rows

            async def rows(query: str, **given: Any) -> Any:
                if query == order:
                    await real("next_order")
                return await real(query, **given)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(database, "rows", rows)
                return await super()._write(order, **arguments)

    with pytest.raises(UnavailableError, match="in between"):
        await Overtaken(database).drain("d0", "why")
    assert await OrderStore(database).read() == StandingOrders({}, {})


async def test_what_was_not_written_when_the_orders_were_read_again_never_is(house: House) -> None:
    database = house.store.database
    store = OrderStore(database)
    [late] = await database.rows("next_order")
    assert await store.settle() == StandingOrders({}, {})
    await database.rows("pin", device_id="d0", model="toy", **late)
    assert await store.read() == StandingOrders({}, {})
