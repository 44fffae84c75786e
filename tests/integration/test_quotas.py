"""Plans and usage over the wire: a gateway's services, a real scheduler, a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from atelier.cli.__main__ import app
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.tenant_store import TenantStore
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import tenant_pb2, usage_pb2
from tests.support.agent import ScriptedAgent
from tests.support.databases import another_database
from tests.support.door import Door, door, refusal
from tests.support.generations import BY, RESULT, generation
from tests.support.processes import Process, scheduler_process


@pytest.fixture(scope="module")
def of_module(postgres: str) -> str:
    return another_database(postgres)


@pytest.fixture(scope="module")
def scheduler(of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("quotas")
    with scheduler_process(of_module, folder, default_plan='{"max_queued": 7}') as process:
        yield process


@asynccontextmanager
async def planned(scheduler: Process, name: str, **plan: Any) -> AsyncIterator[Door]:
    """The line of a tenant that has this plan."""
    async with door(scheduler.address) as operator:
        asked = tenant_pb2.SetTenantRequest(name=name, plan=tenant_pb2.Plan(**plan))
        await operator.tenants.SetTenant(asked)
    async with door(scheduler.address, tenant=name) as caller:
        yield caller


def drawn(**fields: Any) -> pb.CreateGenerationRequest:
    return pb.CreateGenerationRequest(model="toy", image=pb.ImageSpec(prompt="a ring"), **fields)


async def created(caller: Door, **fields: Any) -> pb.Generation:
    return (await caller.generations.CreateGeneration(drawn(**fields))).generation


async def over(caller: Door, **fields: Any) -> str:
    """Which quota another one is refused by."""
    told = await refusal(caller.generations.CreateGeneration, drawn(**fields))
    assert (told.code, told.reason, told.retry) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", True)
    return told.quota


async def used(caller: Door, **asked: Any) -> list[usage_pb2.Usage]:
    return list((await caller.usage.GetUsage(usage_pb2.GetUsageRequest(**asked))).usage)


async def test_who_asks_too_often_waits_and_nobody_else_does(scheduler: Process) -> None:
    plan = {"requests_per_second": 0.001, "requests_burst": 2}
    async with (
        planned(scheduler, "eager", **plan) as caller,
        door(scheduler.address, tenant="eager") as at_another_gateway,
        door(scheduler.address, tenant="calm") as other,
    ):
        first = await created(caller, request_id="a")
        await created(at_another_gateway)
        for line in (caller, at_another_gateway):
            assert await over(line) == "requests_per_second"
        assert await created(caller, request_id="a") == first  # a retry is never refused
        for _ in range(5):
            await created(other)


async def test_each_of_many_is_answered_by_itself(scheduler: Process) -> None:
    async with planned(scheduler, "bulk", max_unfinished=3) as caller:
        asked = pb.CreateGenerationsRequest(requests=[drawn()] * 5)
        answers = (await caller.generations.CreateGenerations(asked)).answers
        kinds = [one.WhichOneof("answer") for one in answers]
        assert kinds == ["generation"] * 3 + ["error"] * 2
        assert await over(caller) == "max_unfinished"
        cancel = pb.CancelGenerationRequest(id=answers[0].generation.id)
        await caller.generations.CancelGeneration(cancel)
        await created(caller)


async def test_classes_go_as_high_as_the_plan(scheduler: Process) -> None:
    async with planned(scheduler, "patient", highest_priority=pb.PRIORITY_BATCH) as caller:
        assert (await created(caller)).priority == pb.PRIORITY_BATCH
        asked = drawn(priority=pb.PRIORITY_NORMAL)
        told = await refusal(caller.generations.CreateGeneration, asked)
        assert (told.code, told.reason) == ("PERMISSION_DENIED", "PRIORITY_NOT_ALLOWED")


async def test_who_has_no_plan_has_the_house_s(scheduler: Process) -> None:
    async with door(scheduler.address) as operator, planned(scheduler, "guest") as guest:
        for _ in range(8):
            await created(guest)
        unset = tenant_pb2.UnsetTenantRequest(name="guest")
        tenant = (await operator.tenants.UnsetTenant(unset)).tenant
        assert (tenant.plan.max_queued, tenant.has_own_plan) == (7, False)
        assert await over(guest) == "max_queued"
        listed = await operator.tenants.ListTenants(tenant_pb2.ListTenantsRequest())
        assert listed.house_plan.max_queued == 7
        assert "guest" not in [one.name for one in listed.tenants]


async def test_a_plan_is_refused_by_field(scheduler: Process) -> None:
    async with door(scheduler.address) as operator:
        plan = tenant_pb2.Plan(max_queued=-1, requests_burst=3)
        asked = tenant_pb2.SetTenantRequest(name="No", plan=plan)
        told = await refusal(operator.tenants.SetTenant, asked)
        assert told.fields.keys() == {"name", "plan.max_queued", "plan.requests_burst"}


async def test_device_seconds_of_failed_attempts_count_and_a_debt_holds_back(
    scheduler: Process, of_module: str
) -> None:
    async with planned(scheduler, "debtor", gpu_seconds_per_hour=0.001) as caller:
        made = await created(caller, priority=pb.PRIORITY_INTERACTIVE)
        async with ScriptedAgent(scheduler.address) as agent:
            for ends in ("fails", "succeeds"):
                attempt = (await agent.expect("run")).run.attempt
                while attempt.generation_id != made.id:  # what others of this module left waiting
                    agent.fail(attempt, retryable=False)
                    await agent.expect("settled")
                    attempt = (await agent.expect("run")).run.attempt
                if ends == "fails":
                    agent.fail(attempt, retryable=True)
                else:
                    agent.succeed(attempt)
                await agent.expect("settled")
                if ends == "fails":
                    first = spent(of_module, made.id)
                    assert first > 0
        assert spent(of_module, made.id) > first
        assert await over(caller) == "gpu_seconds_per_hour"
        [line] = await used(caller)
        assert line.gpu_seconds == pytest.approx(spent(of_module, made.id))
        told = (line.day, line.model, line.generations, line.succeeded, line.pictures, line.bytes)
        assert told == (f"{datetime.now(UTC):%Y-%m-%d}", "toy", 1, 1, 1, RESULT.size_bytes)


async def test_plans_and_usage_from_the_command_line(scheduler: Process) -> None:
    async with door(scheduler.address, tenant="shop") as gateway:

        async def run(*words: str) -> Result:
            words = (*words, "--address", gateway.address)
            return await asyncio.to_thread(CliRunner().invoke, app, words)

        made = await run("tenants", "set", "shop", "--priority", "normal", "--requests", "5")
        assert made.exit_code == 0, made.output
        changed = await run("tenants", "set", "shop", "--burst", "9")  # the rest of it stays
        words = ("shop", "normal", "5, 9 at once", "no bound", "7")  # the last is the house's
        assert all(word in changed.output for word in words), changed.output
        listed = await run("tenants", "list")
        assert "shop" in listed.output and "(everybody else)" in listed.output
        wrong = await run("tenants", "set", "shop", "--priority", "norml")
        assert wrong.exit_code == 2 and "did you mean normal?" in wrong.output
        await run("tenants", "unset", "shop")
        assert "shop (as everybody)" in (await run("tenants", "show", "shop")).output
        assert "shop used nothing" in (await run("usage")).output
        used_by_debtor = (await run("usage", "debtor", "--json")).output
        assert json.loads(used_by_debtor)["usage"][0]["model"] == "toy"


async def test_usage_is_the_caller_s_own(scheduler: Process) -> None:
    async with (
        door(scheduler.address, tenant="nosy", scopes=["read"]) as nosy,
        door(scheduler.address) as operator,
    ):
        asked = usage_pb2.GetUsageRequest(tenant="debtor")
        told = await refusal(nosy.usage.GetUsage, asked)
        assert told.code == "PERMISSION_DENIED"
        assert await used(nosy) == []
        bad = usage_pb2.GetUsageRequest(first_day="2026-02-30", last_day="today")
        told = await refusal(operator.usage.GetUsage, bad)
        assert told.fields.keys() >= {"first_day", "last_day"}
        assert await used(operator, tenant="debtor", last_day="2020-01-01") == []


async def test_a_plan_holds_after_a_restart_and_what_waits_is_counted_anew(
    dsn: str, tmp_path: Any
) -> None:
    with scheduler_process(dsn, tmp_path) as scheduler:
        async with planned(scheduler, "small", max_queued=2) as caller:
            await created(caller)
            await created(caller)
            scheduler.kill()
            scheduler.start()
            assert await over(caller) == "max_queued"


async def test_what_was_used_is_counted_once_and_outlives_the_generation(dsn: str) -> None:
    migrate(dsn)
    async with GenerationStore(dsn) as store:
        tenants, today = TenantStore(store.database), datetime.now(UTC).date()
        made = [generation() for _ in range(3)]
        await store.insert(made)
        for g in made:
            claimed = await store.claim(g.id, "d")
            assert claimed and claimed.lease_token
            for _ in range(2):  # told again: its acknowledgement may have been lost
                await store.publish(g.id, claimed.lease_token, [RESULT], BY, 1.5)
        before = await tenants.usage("local", today, today)
        [line] = before
        assert (line.generations, line.gpu_seconds, line.pictures) == (3, 4.5, 3)
        assert [await tenants.roll_up() for _ in range(2)] == [3, 0]
        with psycopg.connect(dsn) as connection:
            connection.execute("DELETE FROM generations")
        assert await tenants.usage("local", today, today) == before
        assert await tenants.usage("local", today, today, "other") == []


def spent(dsn: str, generation_id: str) -> float:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT gpu_seconds FROM generations WHERE id = %s", (generation_id,)
        ).fetchone()
    assert row
    return float(row[0])
