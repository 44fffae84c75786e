"""A generation's trace, as a collector gets it from a real scheduler."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc

from atelier.translate import generation_to
from atelier.v1 import agent_pb2, generation_pb2, scheduler_pb2_grpc
from atelier.v1 import scheduler_pb2 as pb
from tests.support.agent import ScriptedAgent
from tests.support.collector import Collector, collector
from tests.support.generations import generation
from tests.support.processes import scheduler_process

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def goes_on(agent: ScriptedAgent, attempt: agent_pb2.Attempt, *phases: int) -> None:
    """Its agent tells of each phase, of some length."""
    for phase in phases:
        agent.say(
            progress=agent_pb2.AttemptProgress(
                attempt=attempt,
                phase=generation_pb2.Phase.ValueType(phase),
                step=2,
                total_steps=4,
                step_seconds=0.05 if phase == generation_pb2.PHASE_DENOISING else 0,
            )
        )
        await asyncio.sleep(0.1)


async def test_a_retry_and_a_preemption_make_one_connected_trace(dsn: str, tmp_path: Path) -> None:
    with collector() as kept:
        settings = {"otlp_endpoint": kept.address, "trace_ratio": 0.0}
        with scheduler_process(dsn, tmp_path, **settings) as scheduler:
            async with (
                grpc.aio.insecure_channel(scheduler.address) as channel,
                ScriptedAgent(scheduler.address) as agent,
            ):
                stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
                began = time.monotonic()
                await submit(stub, f"00-{TRACE}-{CALLER}-00")
                first = (await agent.expect("run")).run.attempt
                await goes_on(agent, first, 3, 4)
                agent.fail(first, retryable=True, reason="DEVICE_UNAVAILABLE")
                await agent.expect("settled")
                second = (await agent.expect("run")).run.attempt
                await goes_on(agent, second, 3, 4)
                agent.say(preempted=agent_pb2.AttemptPreempted(attempt=second, step=2))
                await agent.expect("settled")
                third = (await agent.expect("run")).run.attempt
                await goes_on(agent, third, 4, 5, 6)
                agent.succeed(third)
                assert (await agent.expect("settled")).settled.accepted
                took = time.monotonic() - began
                await submit(stub, "")  # cancelled at once: a trace that nothing keeps
    check(kept, took)


async def submit(stub: scheduler_pb2_grpc.SchedulerServiceStub, trace_parent: str) -> None:
    message = generation_to(generation())
    request = pb.SubmitGenerationRequest(
        generation=message, request_hash=b"h", trace_parent=trace_parent
    )
    await stub.SubmitGeneration(request, wait_for_ready=True)


def check(kept: Collector, took: float) -> None:
    spans = sorted(kept.of(int(TRACE, 16)), key=lambda span: span.start_time_unix_nano)
    assert len(spans) == len(kept.spans)  # of the other nothing came
    [root] = [span for span in spans if span.parent_span_id.hex() == CALLER]
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert all(span.parent_span_id in ids for span in spans if span is not root)
    top = [span for span in spans if span.parent_span_id == root.span_id]
    assert [span.name for span in top] == [
        "admitted", "queued", "attempt", "queued", "attempt", "queued", "attempt",
    ]  # fmt: skip
    long = sum(span.end_time_unix_nano - span.start_time_unix_nano for span in top) / 1e9
    assert abs(long - took) < 0.05 * took
    assert [span.status.message for span in top] == [
        "", "", "DEVICE_UNAVAILABLE", "", "PREEMPTED", "", "",
    ]  # fmt: skip
    below = [span for span in spans if span.parent_span_id == top[-1].span_id]
    assert [span.name for span in below] == ["denoise", "decode", "upload", "publish"]
    assert [event.name for event in below[0].events] == ["step"]
