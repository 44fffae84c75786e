"""Two schedulers over one database: one leads, and whatever becomes of it the other follows."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.rpc import channel
from atelier.translate import generation_to
from atelier.v1 import agent_pb2, scheduler_pb2_grpc
from atelier.v1 import scheduler_pb2 as pb
from tests.faults.proxy import HOST, FaultProxy
from tests.support.agent import ScriptedAgent
from tests.support.generations import generation
from tests.support.processes import Process, scheduler_process

Stub = scheduler_pb2_grpc.SchedulerServiceStub


@pytest.fixture
def pair(dsn: str, tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    """A leader, and one that stands by: it has no port open."""
    leader = scheduler_process(dsn, tmp_path)
    leader.start()
    other = scheduler_process(dsn, tmp_path, log="standby.log")
    other.launch()
    try:
        other.until_told("stands by")
        yield leader, other
    finally:
        leader.kill()
        other.kill()


@pytest.fixture
async def stub(pair: tuple[Process, Process]) -> AsyncIterator[Stub]:
    """As the gateway has it: whoever of the two leads."""
    async with channel(",".join(process.address for process in pair), again=True) as line:
        yield Stub(line)


async def submit(stub: Stub, *, wait: bool = True) -> str:
    g = generation()
    request = pb.SubmitGenerationRequest(generation=generation_to(g), request_hash=b"h")
    answer: pb.SubmitGenerationResponse = await stub.SubmitGeneration(
        request, wait_for_ready=wait, timeout=20
    )
    return answer.generation.id


async def at_work(stub: Stub, leader: Process) -> tuple[str, agent_pb2.Attempt]:
    """A generation that an agent runs, which the leader sent it."""
    made = await submit(stub)
    async with ScriptedAgent(leader.address) as agent:
        return made, (await agent.expect("run")).run.attempt


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_the_other_takes_over_and_running_generations_are_adopted(
    pair: tuple[Process, Process], stub: Stub, dsn: str, number: int
) -> None:
    leader, other = pair
    made, attempt = await at_work(stub, leader)
    began = time.monotonic()
    leader.signal(number)
    if number == signal.SIGTERM:
        leader.until_told("stopping")  # else it may still welcome
    addresses = f"{leader.address},{other.address}"
    async with asyncio.timeout(30):
        async with ScriptedAgent(addresses, attempts=[attempt]) as agent:
            print(f"signal {number}: led again after {time.monotonic() - began:.1f} s")
            assert agent.welcome.epoch == 2
            assert not agent.welcome.revoked
            agent.succeed(attempt)
            assert (await agent.expect("settled")).settled.accepted
            assert await submit(stub)  # by the line of before
    async with GenerationStore(dsn) as store:
        row = await store.look(made)
    assert row and (row.state, row.attempt) == ("SUCCEEDED", 1)


async def test_a_frozen_leader_that_wakes_writes_nothing_and_ends(
    pair: tuple[Process, Process], stub: Stub, dsn: str
) -> None:
    leader, other = pair
    _, attempt = await at_work(stub, leader)
    leader.signal(signal.SIGSTOP)
    async with ScriptedAgent(other.address, attempts=[attempt]) as agent:
        with psycopg.connect(dsn) as connection:
            before = connection.execute("SELECT * FROM generation_events").fetchall()
            # What it does first when it wakes: submits that came meanwhile are in its socket.
            # As a gateway sends them: what a server that stops drops unread is sent again.
            async with channel(leader.address, own_connection=True, again=True) as line:
                late = asyncio.create_task(submit(Stub(line), wait=False))
                await asyncio.sleep(0.2)
                leader.signal(signal.SIGCONT)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await late
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert connection.execute("SELECT * FROM generation_events").fetchall() == before
        assert leader.wait(15) == 1
        assert "steps down" in leader.log.read_text()
        agent.succeed(attempt)
        assert (await agent.expect("settled")).settled.accepted


def test_the_lease_is_renewed_while_much_is_taken_up(dsn: str, tmp_path: Path) -> None:
    migrate(dsn)
    with psycopg.connect(dsn) as connection:  # read after it leads, and longer than the lease
        connection.execute("ALTER TABLE drained_devices RENAME TO real_ones")
        connection.execute(
            "CREATE VIEW drained_devices AS SELECT real_ones.* FROM pg_sleep(4), real_ones"
        )
    leader, other = scheduler_process(dsn, tmp_path), scheduler_process(dsn, tmp_path, log="b.log")
    leader.launch()
    try:
        leader.until_told('"leads"')
        other.launch()
        other.until_told("stands by")
        leader.until_told("serving")
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT epoch FROM leader").fetchone() == (1,)
    finally:
        leader.kill()
        other.kill()


async def test_who_stands_by_ends_when_told(pair: tuple[Process, Process]) -> None:
    _, other = pair
    other.signal(signal.SIGTERM)
    assert other.wait(10) == 0


async def test_a_leader_that_only_the_database_does_not_answer_closes_its_port(
    dsn: str, tmp_path: Path
) -> None:
    """Callers and agents would reach it as before, and look for no other."""
    folder = conninfo_to_dict(dsn)["host"]
    async with FaultProxy(f"{folder}/.s.PGSQL.5432") as proxy, AsyncExitStack() as stack:
        through = make_conninfo(dsn, host=HOST, port=proxy.port)
        leader = scheduler_process(through, tmp_path)
        other = scheduler_process(dsn, tmp_path, log="standby.log")
        stack.callback(leader.kill)
        await asyncio.to_thread(leader.start)
        stack.callback(other.kill)
        other.launch()
        await asyncio.to_thread(other.until_told, "stands by")
        addresses = f"{leader.address},{other.address}"
        line = await stack.enter_async_context(channel(addresses, again=True))
        _, attempt = await at_work(Stub(line), leader)
        proxy.freeze()
        began = time.monotonic()
        await asyncio.to_thread(leader.until_told, "the lease ran out")
        async with ScriptedAgent(addresses, attempts=[attempt]) as agent:
            print(f"cut off: led again after {time.monotonic() - began:.1f} s")
            assert agent.welcome.epoch == 2
            assert not agent.welcome.revoked
            assert await submit(Stub(line))  # by the line of before
        assert "steps down" not in leader.log.read_text()  # it lives, and answers nobody
        proxy.heal()
        assert await asyncio.to_thread(leader.wait, 20) == 1
        assert "steps down" in leader.log.read_text()
