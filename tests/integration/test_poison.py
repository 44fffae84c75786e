"""What ends the Triton that runs it: found out, kept to itself, and set aside in the end."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from agent.triton import Triton
from atelier.errors import ExecutionError
from atelier.v1 import agent_pb2, generation_pb2, scheduler_pb2_grpc
from tests.integration.test_scheduler import read, run_of, submit
from tests.support.agent import ScriptedAgent
from tests.support.cards import toy_card
from tests.support.processes import scheduler_process

Stub = scheduler_pb2_grpc.SchedulerServiceStub

# Ends when so many inferences are under way: as a fault in a driver would end it, or in order.
DOOMED = """
import asyncio, os, sys, grpc
from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc

class Doomed(service_pb2_grpc.GRPCInferenceServiceServicer):
    under_way = 0
    async def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=True)
    async def ModelInfer(self, request, context):
        self.under_way += 1
        if self.under_way == int(sys.argv[1]):
            if sys.argv[2] == "dies":
                os._exit(1)
            if sys.argv[2] == "refuses":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Server is stopping")
            asyncio.create_task(server.stop(0))
        await asyncio.sleep(60)

async def main():
    global server
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Doomed(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""
CARD = toy_card()
IDS = np.zeros((1, 8), np.int64)


@asynccontextmanager
async def doomed(calls: int, how: str = "dies") -> AsyncIterator[Triton]:
    """A Triton that has answered, and ends with its `calls`-th inference."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DOOMED, str(calls), how, stdout=PIPE
    )
    assert child.stdout
    port = int(await child.stdout.readline())
    triton = Triton(f"127.0.0.1:{port}")
    try:
        assert await triton.live()
        yield triton
    finally:
        await triton.close()
        if child.returncode is None:
            child.kill()
        await child.wait()


async def reason_of(triton: Triton) -> str | None:
    with pytest.raises(ExecutionError) as failed:
        await triton.encode_text(CARD, IDS)
    assert failed.value.retryable
    return failed.value.reason


async def test_who_ran_alone_when_its_triton_ended_is_told_apart() -> None:
    async with doomed(1) as triton:
        assert await reason_of(triton) == "DEVICE_KILLED"
        assert await reason_of(triton) == "DEVICE_UNAVAILABLE"  # it was away already


@pytest.mark.parametrize("how", ["stops", "refuses"])
async def test_nobody_is_to_blame_for_a_triton_that_is_stopped_in_order(how: str) -> None:
    async with doomed(1, how) as triton:
        assert await reason_of(triton) == "DEVICE_UNAVAILABLE"


async def test_of_two_that_ran_nobody_knows() -> None:
    async with doomed(2) as triton:
        reasons = [*await asyncio.gather(reason_of(triton), reason_of(triton))]
        assert reasons == ["DEVICE_DIED", "DEVICE_DIED"]


async def test_a_suspect_runs_alone_and_the_second_end_by_itself_is_its_last(
    dsn: str, tmp_path: Path
) -> None:
    with scheduler_process(dsn, tmp_path) as scheduler:
        async with (
            grpc.aio.insecure_channel(scheduler.address) as channel,
            ScriptedAgent(scheduler.address) as agent,
        ):
            stub = Stub(channel)
            made = await submit(stub)

            async def ends(reason: str) -> agent_pb2.RunGeneration:
                run = (await agent.expect("run")).run
                agent.fail(run.attempt, retryable=True, reason=reason)
                assert (await agent.expect("settled")).settled.accepted
                return run

            assert not (await ends("DEVICE_DIED")).alone
            assert (await ends("DEVICE_KILLED")).alone
            assert (await ends("DEVICE_UNAVAILABLE")).alone
            assert (await ends("DEVICE_KILLED")).alone
            found = await read(stub, made)
            assert found.state == generation_pb2.GENERATION_STATE_FAILED
            assert "ended 2 devices' Tritons" in found.failure.message
            await submit(stub)
            await run_of(agent)  # the device is as good as before
