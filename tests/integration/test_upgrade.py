"""Processes of an earlier version beside ours on one schema (scripts/test_upgrade.sh COMMIT).

Schedulers take over from each other in both directions; an earlier gateway speaks with ours.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.rpc import channel
from atelier.translate import generation_to
from atelier.v1 import generation_pb2, generation_pb2_grpc, scheduler_pb2_grpc
from atelier.v1 import scheduler_pb2 as pb
from tests.support.agent import ScriptedAgent
from tests.support.generations import generation
from tests.support.ports import free_address
from tests.support.processes import Process, scheduler_process

OLD = os.environ.get("ATELIER_OLD_TREE", "")
pytestmark = pytest.mark.skipif(not OLD, reason="needs an earlier version: make test-upgrade")


def of(process: Process, version: str) -> Process:
    """The same of ours, or of the earlier version's code."""
    return process.by_code_in(OLD) if version == "old" else process


@pytest.fixture
def schema(dsn: str) -> Iterator[str]:
    """Ours comes first: its `_pre_` migrations go before any process of ours."""
    migrate(dsn)
    yield dsn


@pytest.mark.parametrize(("first", "then"), [("old", "new"), ("new", "old")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_one_version_takes_over_from_the_other(
    schema: str, tmp_path: Path, first: str, then: str, number: int
) -> None:
    leader = of(scheduler_process(schema, tmp_path), first)
    other = of(scheduler_process(schema, tmp_path, log="other.log"), then)
    leader.start()
    other.launch()
    try:
        other.until_told("stands by")
        both = f"{leader.address},{other.address}"
        async with channel(both, again=True) as line:
            stub = scheduler_pb2_grpc.SchedulerServiceStub(line)
            request = pb.SubmitGenerationRequest(
                generation=generation_to(generation()), request_hash=b"h"
            )
            made = await stub.SubmitGeneration(request, wait_for_ready=True, timeout=20)
            async with ScriptedAgent(leader.address) as agent:
                attempt = (await agent.expect("run")).run.attempt
            leader.signal(number)
            if number == signal.SIGTERM:
                leader.until_told("stopping")
            async with ScriptedAgent(both, attempts=[attempt]) as agent:
                assert not agent.welcome.revoked
                agent.succeed(attempt)
                assert (await agent.expect("settled", 30)).settled.accepted
    finally:
        leader.kill()
        other.kill()
    async with GenerationStore(schema) as store:
        row = await store.look(made.generation.id)
    assert row is not None
    assert (row.state, row.attempt) == ("SUCCEEDED", 1)


async def test_an_earlier_gateway_speaks_with_our_scheduler(schema: str, tmp_path: Path) -> None:
    address = free_address()
    with scheduler_process(schema, tmp_path) as scheduler:
        gateway = Process(
            "gateway", address, tmp_path / "gateway.log", gateway_listen=address,
            scheduler_address=scheduler.address, model_repository=tmp_path, require_keys="false",
            s3_endpoint="127.0.0.1:9", s3_access_key="a", s3_secret_key="s",
        ).by_code_in(OLD)  # fmt: skip
        with gateway:
            async with grpc.aio.insecure_channel(address) as line:
                stub = generation_pb2_grpc.GenerationServiceStub(line)
                made = await stub.CreateGeneration(
                    generation_pb2.CreateGenerationRequest(
                        model="toy", image=generation_pb2.ImageSpec(prompt="a red circle")
                    ),
                    timeout=20,
                )
                asked = generation_pb2.GetGenerationRequest(id=made.generation.id)
                found = await stub.GetGeneration(asked, timeout=20)
                assert found.generation.state == generation_pb2.GENERATION_STATE_QUEUED
                stopped = await stub.CancelGeneration(
                    generation_pb2.CancelGenerationRequest(id=made.generation.id), timeout=20
                )
                assert stopped.generation.state == generation_pb2.GENERATION_STATE_CANCELLED
