"""The scheduler where an acknowledgement is lost, a clock differs, or an agent's word cannot be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from google.rpc import status_pb2

from atelier.errors import UnavailableError
from atelier.generation import MAX_ATTEMPTS, Failure, Generation, State
from atelier.translate import failure_to, provenance_to, result_to
from atelier.v1 import agent_pb2, generation_pb2
from scheduler import outcomes
from scheduler.decisions import Boundary, Decision, Unload
from tests.support.generations import BY, RESULT, generation
from tests.support.house import House, house_over

CANCELLED = generation_pb2.GENERATION_STATE_CANCELLED
RUNNING = generation_pb2.GENERATION_STATE_RUNNING
SOON = timedelta(seconds=0.3)


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with house_over(dsn) as house:
        yield house


async def until(holds: Callable[[], Any], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def once(house: House, name: str, instead: Callable[..., Awaitable[Any]]) -> None:
    """The store's next call of this name goes to `instead`, which is given the real one."""
    real = getattr(house.store, name)

    async def call(*arguments: Any) -> Any:
        setattr(house.store, name, real)
        return await instead(real, *arguments)

    setattr(house.store, name, call)


async def unacknowledged(real: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """It is committed, and nobody hears of it."""
    await real(*arguments)
    raise UnavailableError("the acknowledgement was lost")


async def running(house: House, **changes: Any) -> tuple[Generation, agent_pb2.Attempt]:
    """One that runs on d0."""
    g = await house.intake.submit(generation(**changes))
    return g, (await house.command("run")).run.attempt


async def state(house: House, g: Generation) -> State:
    row = await house.store.look(g.id)
    assert row
    return row.state


# Acknowledgements that are lost.


async def test_a_submit_that_nobody_heard_of_runs_when_it_is_sent_again(house: House) -> None:
    house.join()
    real = house.store.insert
    lost = partial(unacknowledged, real)  # and again, when intake sends it a second time
    house.store.insert = lost  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        await house.intake.submit(generation(request_id="k"))
    assert house.live.queued == 0
    house.store.insert = real  # type: ignore[method-assign]
    stored = await house.intake.submit(generation(request_id="k"))
    assert (await house.command("run")).run.attempt.generation_id == stored.id
    assert await house.intake.submit(generation(request_id="k")) == await house.store.look(
        stored.id
    )
    assert house.live.queued == 0  # known: not queued again


async def test_a_submit_that_nobody_sends_again_is_found(house: House) -> None:
    house.join()
    await house.store.insert([generation()])
    await house.sysmon.reconcile()
    await house.command("run")


async def test_a_cancel_that_nobody_heard_of_is_told_to_watchers(house: House) -> None:
    g = await house.intake.submit(generation())
    watching = asyncio.create_task(house.watch(g.id))
    once(house, "request_cancel", unacknowledged)
    with pytest.raises(UnavailableError):
        await house.stop(g.id)
    assert await house.stop(g.id) == CANCELLED
    assert (await watching)[-1] == CANCELLED
    assert await house.watch(g.id) == [CANCELLED]
    assert house.live.queued == 0


async def test_a_cancel_that_nobody_sends_again_is_found(house: House) -> None:
    g = await house.intake.submit(generation())
    watching = asyncio.create_task(house.watch(g.id))
    await house.store.request_cancel("local", g.id)
    await house.sysmon.reconcile()
    assert (await watching)[-1] == CANCELLED


async def test_a_cancel_whose_caller_left_is_followed(house: House) -> None:
    g = await house.intake.submit(generation())
    written, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(real: Any, *arguments: Any) -> Any:
        row = await real(*arguments)
        written.set()
        await go_on.wait()
        return row

    once(house, "request_cancel", slowly)
    call = asyncio.create_task(house.stop(g.id))
    await written.wait()
    call.cancel()
    go_on.set()
    assert (await house.watch(g.id))[-1] == CANCELLED
    assert house.live.queued == 0


async def test_a_cancel_that_is_acknowledged_after_its_end_leaves_nothing(house: House) -> None:
    house.join()
    g, attempt = await running(house)

    async def overtaken(real: Any, *arguments: Any) -> Any:
        row = await real(*arguments)
        house.hear(
            succeeded=agent_pb2.AttemptSucceeded(
                attempt=attempt, results=[result_to(RESULT)], provenance=provenance_to(BY)
            )
        )
        await until(lambda: g.id not in house.live.running)
        return row

    once(house, "request_cancel", overtaken)
    await house.stop(g.id)
    assert await state(house, g) is State.SUCCEEDED
    assert not house.live.cancelling


async def test_a_claim_that_nobody_heard_of_is_taken(house: House) -> None:
    once(house, "claim", unacknowledged)
    house.join()
    g, attempt = await running(house)
    assert attempt.generation_id == g.id


async def test_a_claim_that_is_carried_out_late_is_taken_back(house: House) -> None:
    late: list[Awaitable[Any]] = []

    async def later(real: Any, *arguments: Any) -> Any:
        late.append(real(*arguments))
        raise UnavailableError("the connection broke")

    once(house, "claim", later)
    house.join()
    g = await house.intake.submit(generation())
    await until(lambda: late and g.id not in house.live.claiming)
    await late[0]  # after it was read
    attempt = (await house.command("run")).run.attempt
    row = await house.store.look(g.id)
    assert row and row.lease_token == attempt.lease_token and row.attempt == 2


async def test_a_late_claim_of_what_waits_elsewhere_is_found(house: House) -> None:
    g = await house.intake.submit(generation())
    await house.store.claim(g.id, "d0")
    await house.sysmon.reconcile()
    assert await state(house, g) is State.QUEUED
    house.join()
    await house.command("run")


async def test_a_watcher_sees_nothing_go_back_where_memory_is_behind(house: House) -> None:
    """As that of a leader is which was frozen, deposed, and wakes."""
    g = await house.intake.submit(generation())
    await house.store.claim(g.id, "elsewhere")
    watch = house.follow(g.id)
    assert (await anext(watch)).generation.state == RUNNING
    house.live.watchers.publish(g)
    told = (await anext(watch)).generation
    assert (told.state, told.attempt) == (RUNNING, 1)
    await watch.aclose()  # type: ignore[attr-defined]


async def test_an_end_that_nobody_heard_of_reaches_agent_and_watchers(house: House) -> None:
    house.join()
    g, attempt = await running(house)
    await house.store.fail(g.id, attempt.lease_token, Failure("INTERNAL", "TEST", "test"))
    await house.sysmon.reconcile()
    assert (await house.command("cancel")).cancel.attempt == attempt
    assert house.live.holds(g.id, attempt.lease_token) is None


async def test_memory_that_agrees_is_left_alone(house: House) -> None:
    house.join(capacity=120)
    g, attempt = await running(house)
    waits = await house.intake.submit(generation())
    await house.sysmon.reconcile()
    assert house.live.holds(g.id, attempt.lease_token)
    assert house.live.queued == 1 and house.live.knows(waits.id)


async def test_a_report_that_is_heard_twice_is_taken_twice(house: House) -> None:
    house.join()
    _, attempt = await running(house)
    report = agent_pb2.AttemptSucceeded(
        attempt=attempt, results=[result_to(RESULT)], provenance=provenance_to(BY)
    )
    for _ in range(2):
        house.hear(succeeded=report)
        assert (await house.command("settled")).settled.accepted
    report.results[0].object_key = "results/other.png"
    house.hear(succeeded=report)
    assert not (await house.command("settled")).settled.accepted


async def test_a_fault_of_ours_over_a_report_leaves_nothing_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran for ever: its agent waited for an answer, and nobody else knew that it had ended."""
    house.join()
    g, attempt = await running(house)

    async def broken(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(house.outcomes, "succeeded", broken)
        house.hear(succeeded=agent_pb2.AttemptSucceeded(attempt=attempt))
        assert not (await house.command("settled")).settled.accepted
    again = (await house.command("run")).run.attempt
    assert (again.generation_id, await state(house, g)) == (g.id, State.RUNNING)
    assert again.lease_token != attempt.lease_token


async def test_results_that_cannot_be_stored_fail_it_cleanly(house: House) -> None:
    house.join()
    g, attempt = await running(house)
    bad = result_to(RESULT)
    bad.object_key = "a\0b"
    house.hear(succeeded=agent_pb2.AttemptSucceeded(attempt=attempt, results=[bad]))
    assert not (await house.command("settled")).settled.accepted
    assert await state(house, g) is State.FAILED


async def test_a_failure_text_that_cannot_be_stored_is_mended(house: House) -> None:
    house.join()
    g, attempt = await running(house)
    why = failure_to(Failure("INTERNAL", "TEST", "a\0b"))
    house.hear(failed=agent_pb2.AttemptFailed(attempt=attempt, failure=why))
    assert (await house.command("settled")).settled.accepted
    row = await house.store.look(g.id)
    assert row and row.failure == Failure("INTERNAL", "TEST", "ab")


async def test_one_that_cannot_be_stored_does_not_spoil_its_group(house: House) -> None:
    made = await asyncio.gather(
        house.intake.submit(generation(labels={"a": "\0"})),
        house.intake.submit(generation()),
        return_exceptions=True,
    )
    assert isinstance(made[0], Exception) and isinstance(made[1], Generation)


# Clocks that differ.


@pytest.mark.parametrize("runs", [False, True])
async def test_a_deadline_by_a_clock_ahead_of_the_database_s(house: House, runs: bool) -> None:
    deadline = datetime.now(UTC) + SOON
    if runs:
        house.join()
        g, attempt = await running(house, deadline=deadline)
    else:
        g = await house.intake.submit(generation(deadline=deadline))
    ahead = timedelta(seconds=5)
    await house.sysmon.tick(time.monotonic(), datetime.now(UTC) + ahead)
    assert not (await state(house, g)).final
    await asyncio.sleep(SOON.total_seconds())
    await house.sysmon.tick(time.monotonic(), datetime.now(UTC) + ahead * 2)
    assert await state(house, g) is State.EXPIRED
    if runs:  # told only now, and its memory is not given away before the agent answers
        assert (await house.command("cancel")).cancel.attempt == attempt
        assert list(house.live.sched.devices["d0"].running) == [g.id]
        house.hear(failed=agent_pb2.AttemptFailed(attempt=attempt, cancelled=True))
        assert not (await house.command("settled")).settled.accepted
        assert not house.live.sched.devices["d0"].running


async def test_a_deadline_waits_for_a_database_that_is_away(house: House) -> None:
    g = await house.intake.submit(generation(deadline=datetime.now(UTC) - SOON))

    async def away(*_: Any) -> Any:
        raise UnavailableError("away")

    once(house, "expire", away)
    with pytest.raises(UnavailableError):
        await house.sysmon.tick(time.monotonic(), datetime.now(UTC))
    await house.sysmon.tick(time.monotonic(), datetime.now(UTC) + timedelta(seconds=5))
    assert await state(house, g) is State.EXPIRED


async def test_an_agent_that_stops_unasked_gets_it_again(house: House) -> None:
    house.join()
    g, first = await running(house)
    house.hear(failed=agent_pb2.AttemptFailed(attempt=first, cancelled=True))
    second = (await house.command("run")).run.attempt
    assert second.generation_id == g.id and second.lease_token > first.lease_token


async def test_age_counts_from_the_first_submit(house: House) -> None:
    g = generation(create_time=datetime.now(UTC) - timedelta(hours=1))
    assert house.live.now() - house.live.ticket(g).submitted == pytest.approx(3_600, abs=5)


async def test_deadlines_of_what_has_ended_are_forgotten(house: House) -> None:
    far = datetime.now(UTC) + timedelta(days=1)
    for n in range(3_000):
        house.live.look_again(str(n), far)
    assert len(house.live._deadlines) < 1_100
    assert house.live.overdue(far) == []


# Agents' words that cannot be.


async def test_more_models_than_memory(house: House) -> None:
    house.join(capacity=90)
    device = house.live.sched.devices["d0"]
    assert "holds 100 bytes" in device.quarantined and not device.resident
    house.sample()
    assert house.live.sched.devices["d0"].usable


async def test_an_upload_and_its_successor_are_taken_back(house: House) -> None:
    house.join(capacity=120)
    _, first = await running(house)
    house.hear(device_released=agent_pb2.DeviceReleased(attempt=first))
    _, second = await running(house)
    first.released = True
    assert house.join([first, second], capacity=120) == []
    device = house.live.sched.devices["d0"]
    assert device.usable and list(device.running) == [second.generation_id]
    assert house.live.holds(first.generation_id, first.lease_token)


async def test_two_that_cannot_run_at_once_are_doubted_until_one_is_done(house: House) -> None:
    house.join(capacity=120)
    _, first = await running(house)
    house.hear(device_released=agent_pb2.DeviceReleased(attempt=first))
    _, second = await running(house)
    assert house.join([first, second], capacity=120) == []  # both hold the device, it says
    assert not house.live.sched.devices["d0"].usable
    house.sample("toy")
    assert not house.live.sched.devices["d0"].usable
    house.hear(device_released=agent_pb2.DeviceReleased(attempt=first))
    house.sample("toy")
    device = house.live.sched.devices["d0"]
    assert device.usable and list(device.running) == [second.generation_id]


async def test_one_that_holds_more_than_it_has_is_emptied(house: House) -> None:
    """Two agents of one name may have filled it; it would be left out for ever."""
    house.join(capacity=50)
    assert "d0" in house.fleet.doubts
    house.sample("toy")
    assert (await house.command("unload_model")).unload_model.model == "toy"
    house.sample()
    assert not house.fleet.doubts and not house.live.sched.devices["d0"].quarantined


async def test_a_model_gone_under_its_work(house: House) -> None:
    house.join()
    _, attempt = await running(house)
    for _ in range(3):
        house.sample()
    assert "toy" in house.live.sched.devices["d0"].quarantined
    house.hear(failed=agent_pb2.AttemptFailed(attempt=attempt, retryable=True))
    await house.command("settled")
    house.sample()
    assert (await house.command("load_model")).load_model.model == "toy"


async def test_the_core_s_own_mistake_costs_one_device_for_a_moment(house: House) -> None:
    house.join()
    _, attempt = await running(house)
    device = house.live.sched.devices["d0"]
    device.resident.clear()  # as no event does
    house.live.wake.set()
    await until(lambda: "lost count" in house.live.sched.devices["d0"].quarantined)
    house.sample("toy")
    assert list(house.live.sched.devices["d0"].running) == [attempt.generation_id]
    house.hear(device_released=agent_pb2.DeviceReleased(attempt=attempt))
    await running(house)


@pytest.mark.parametrize("missing", ["UPLOAD_FAILED", "OBJECT_STORE_UNAVAILABLE"])
async def test_a_part_that_is_away_costs_no_attempts(
    house: House, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(outcomes, "RETRY_SECONDS", 0.0)
    house.join()
    g, attempt = await running(house)
    away = pb_failure(missing)
    for _ in range(MAX_ATTEMPTS + 1):
        house.hear(failed=agent_pb2.AttemptFailed(attempt=attempt, failure=away, retryable=True))
        attempt = (await house.command("run")).run.attempt
    for _ in range(MAX_ATTEMPTS - 1):
        own = pb_failure("OUT_OF_MEMORY")
        house.hear(failed=agent_pb2.AttemptFailed(attempt=attempt, failure=own, retryable=True))
        attempt = (await house.command("run")).run.attempt
    house.hear(failed=agent_pb2.AttemptFailed(attempt=attempt, failure=own, retryable=True))
    await house.command("settled")
    assert await state(house, g) is State.FAILED


def pb_failure(reason: str) -> status_pb2.Status:
    return failure_to(Failure("UNAVAILABLE", reason, "as the test says"))


async def test_a_line_cut_at_its_welcome_leaves_nothing(house: House) -> None:
    async def requests() -> AsyncIterator[agent_pb2.ConnectRequest]:
        facts = agent_pb2.DeviceFacts(id="d9", capacity_bytes=1_000)
        yield agent_pb2.ConnectRequest(hello=agent_pb2.Hello(node="n9", devices=[facts]))
        await asyncio.Event().wait()

    stream = house.agents.Connect(requests(), None)
    assert (await anext(stream)).HasField("welcome")
    await stream.aclose()  # type: ignore[attr-defined]
    assert house.lines.of("d9") is None and "d9" in house.fleet.lost_since
    await house.sysmon.tick(time.monotonic() + 2, datetime.now(UTC))
    assert "d9" not in house.live.sched.devices and "d9" not in house.fleet.hardware


async def test_who_came_back_in_time_has_not_lost_it(house: House) -> None:
    house.join()
    g, attempt = await running(house)
    tried, go_on = asyncio.Event(), asyncio.Event()

    async def away(*_: Any) -> Any:
        tried.set()
        await go_on.wait()
        raise UnavailableError("away")

    once(house, "requeue", away)
    lost = asyncio.create_task(house.outcomes.lost(g.id, attempt.lease_token))
    await tried.wait()
    house.join([attempt])
    go_on.set()
    await lost
    assert house.live.holds(g.id, attempt.lease_token)
    assert (await state(house, g)) is State.RUNNING


async def test_who_came_back_during_the_write_is_told_to_stop(house: House) -> None:
    house.join()
    g, attempt = await running(house)
    written, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(real: Any, *arguments: Any) -> Any:
        row = await real(*arguments)
        written.set()
        await go_on.wait()
        return row

    once(house, "requeue", slowly)
    lost = asyncio.create_task(house.outcomes.lost(g.id, attempt.lease_token))
    await written.wait()
    house.join([attempt])
    go_on.set()
    assert (await house.command("cancel")).cancel.attempt.lease_token == attempt.lease_token
    await lost


async def test_at_a_boundary_the_core_knows_what_is_left_and_an_old_attempt_tells_nothing(
    house: House,
) -> None:
    house.join()
    g, attempt = await running(house)
    ticket = house.live.sched.devices["d0"].running[g.id]
    house.hear(progress=agent_pb2.AttemptProgress(attempt=attempt, step=3, total_steps=4))
    attempt.lease_token -= 1
    house.hear(progress=agent_pb2.AttemptProgress(attempt=attempt, step=1, total_steps=4))
    assert ticket.steps_left == ticket.steps == 4
    house.live.boundary("d0", house.live.now())
    assert ticket.steps_left == 1


async def test_the_core_s_own_mistake_costs_no_decision_about_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.join()
    boundary = house.live.boundary

    def broken(device_id: str, now: float) -> list[Decision]:
        assert device_id != "d9", "d9: broken"
        return boundary(device_id, now)

    monkeypatch.setattr(house.live, "boundary", broken)
    house.live.did([Boundary("d9"), Unload("toy", "d0")])
    assert (await house.command("unload_model")).unload_model.model == "toy"
