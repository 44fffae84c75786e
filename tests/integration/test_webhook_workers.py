"""Workers: who waits for whom, what they share, and what is left when one dies."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from atelier.metrics import exported
from tests.integration.test_metrics import scrape
from tests.support.outbox import Bench
from tests.support.ports import free_address
from tests.support.processes import Process
from tests.support.receiver import Receiver, answering, silent
from webhooks.outbox import Outbox

LANE = "SELECT failures, closed_until > now() AS closed FROM webhook_lanes"


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
        bench.change("UPDATE webhook_deliveries SET next_time = now() - interval '1 hour'")
        waiting, overdue_seconds = await Outbox(bench.generations.database).age()
        assert waiting == 20 and overdue_seconds < 60  # it waits for its receiver, not for us
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
        failpoints="webhook_sent_before_mark=exit",
    )
    with process:
        async with Receiver() as receiver:
            await bench.hook(receiver.url)
            await bench.succeed()
            assert await asyncio.to_thread(process.wait, 20) == -signal.SIGKILL
            bench.change("UPDATE webhook_lanes SET leased_until = now()")  # 35 s later
            async with bench.worker():
                first, second = await receiver.until(2)
                [row] = await bench.ended(1)
    assert first.id == second.id and first.body == second.body
    assert row["attempts"] == 1 and row["delivered"]


async def test_a_worker_that_stops_gives_its_lanes_back(bench: Bench) -> None:
    async with Receiver(silent) as receiver:
        await bench.hook(receiver.url)
        async with bench.worker():
            await bench.succeed()
            await receiver.until(1)
        async with bench.worker():  # 35 s before the lease ends by itself
            first, second = await receiver.until(2)
            await bench.ended(1)
    assert first.id == second.id


async def test_what_ended_is_forgotten_and_history_may_go_before_it(bench: Bench) -> None:
    await bench.hook("http://a.example/")
    await bench.succeed()
    bench.change("DELETE FROM generation_events; DELETE FROM generations")  # as a dropped day
    outbox = Outbox(bench.generations.database)
    assert (await outbox.age())[0] == 1 and await outbox.forget() == 0
    bench.change("UPDATE webhook_deliveries SET finish_time = now() - interval '8 days'")
    assert await outbox.forget() == 1
    assert bench.rows() == []


async def test_the_worker_measures_itself(bench: Bench) -> None:
    address = free_address()
    with exported("webhooks", address) as meter:
        async with Receiver(answering(500)) as receiver, bench.worker(meter=meter) as worker:
            await bench.hook(receiver.url)
            await bench.succeed()
            await receiver.until(1)
            tending = asyncio.create_task(worker.tend())
            await bench.until(lambda rows: rows[0]["attempts"] == 1)
            bench.change("UPDATE webhook_deliveries SET next_time = now()")
            await bench.ended(1)
            found = await asyncio.to_thread(scrape, address)
            tending.cancel()
    assert found["atelier_webhooks_waiting", ""] == 1
    assert found["atelier_webhooks_latency_seconds_count", ""] == 1
    assert ("atelier_webhooks_outbox_age_seconds", "") in found
