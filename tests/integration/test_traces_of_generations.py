"""A generation's trace, as a collector gets it from a real scheduler."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.traces import sending
from atelier.translate import generation_to
from atelier.v1 import agent_pb2, generation_pb2, scheduler_pb2_grpc
from atelier.v1 import scheduler_pb2 as pb
from tests.support.agent import ScriptedAgent
from tests.support.collector import Collector, collector
from tests.support.generations import generation
from tests.support.outbox import Bench
from tests.support.processes import scheduler_process
from tests.support.receiver import Receiver, answering

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
    migrate(dsn)
    with collector() as kept:
        async with GenerationStore(dsn) as store, Receiver(answering(500)) as receiver:
            bench = Bench(dsn, store)
            await bench.hook(receiver.url)
            took = await lives_through_it(dsn, tmp_path, kept)
            # Its row goes before it is told.
            bench.change("DELETE FROM generation_events; DELETE FROM generations")
            await tell(bench, kept)
    check(kept, took)


async def lives_through_it(dsn: str, tmp_path: Path, kept: Collector) -> float:
    """A generation of three attempts, under a scheduler that sends traces; what its caller waited,
    in seconds."""
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
            agent.succeed(third, encode_seconds=0.04)
            assert (await agent.expect("settled")).settled.accepted
            took = time.monotonic() - began
            await submit(stub, "")  # cancelled at once: a trace that nothing keeps
    return took


async def tell(bench: Bench, kept: Collector) -> None:
    """Its webhook is posted twice: the first time nobody takes it."""
    with sending(kept.address, ratio=0.0, slow_seconds=30) as traces:
        async with bench.worker(traces=traces):
            await bench.until(lambda rows: rows[0]["attempts"] == 1)
            bench.change("UPDATE webhook_deliveries SET next_time = now()")
            await bench.ended(1)


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
    inside = [span for span in spans if span.parent_span_id == root.span_id]
    top = [span for span in inside if span.name != "webhook"]
    told = [span for span in inside if span.name == "webhook"]
    assert [span.name for span in top] == [
        "admitted", "queued", "attempt", "queued", "attempt", "queued", "attempt",
    ]  # fmt: skip
    long = sum(span.end_time_unix_nano - span.start_time_unix_nano for span in top) / 1e9
    assert abs(long - took) < 0.05 * took
    assert [span.status.message for span in top] == [
        "", "", "DEVICE_UNAVAILABLE", "", "PREEMPTED", "", "",
    ]  # fmt: skip
    door = [span for span in spans if span.parent_span_id == top[0].span_id]
    assert [(span.name, kept.parts[span.span_id]) for span in door] == [
        ("gateway", "atelier-gateway"), ("store", "atelier-scheduler"),
    ]  # fmt: skip
    below = [span for span in spans if span.parent_span_id == top[-1].span_id]
    assert [span.name for span in below] == [
        "denoise", "decode", "encode", "upload", "publish",
    ]  # fmt: skip
    assert below[2].end_time_unix_nano - below[2].start_time_unix_nano == 40_000_000
    assert [event.name for event in below[0].events] == ["step"]
    check_told(kept, told, of=root)


def check_told(kept: Collector, told: list[Span], of: Span) -> None:
    assert {kept.parts[span.span_id] for span in told} == {"atelier-webhooks"}
    assert [span.status.message for span in told] == ["500", ""]
    assert all(span.start_time_unix_nano >= of.end_time_unix_nano for span in told)
    numbers = [
        {a.key: a.value.int_value for a in span.attributes if a.value.HasField("int_value")}
        for span in told
    ]
    assert numbers == [
        {"atelier.attempt": 1, "http.response.status_code": 500},
        {"atelier.attempt": 2, "http.response.status_code": 204},
    ]
