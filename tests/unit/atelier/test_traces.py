"""Which traces are kept, and what a collector gets of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from atelier.spans import Span
from atelier.traces import Traces, sending
from tests.support.collector import collector

START = datetime(2026, 11, 23, tzinfo=UTC)
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def id_of(number: int) -> str:
    return str(UUID(int=number << 64 | number * 0x9E3779B97F4A7C15 % 2**64))


def trace(seconds: float = 1.0, error: str = "", *, again: bool = False) -> list[Span]:
    end = START + timedelta(seconds=seconds)
    spans = [
        Span("generation", START, end, error=error),
        Span("attempt 1", START, end, "generation", "agent", "attempt"),
    ]
    if again:
        spans.append(Span("attempt 2", START, end, "generation", "agent", after=["attempt 1"]))
    return spans


def traces(ratio: float) -> Traces:
    processor = SimpleSpanProcessor(InMemorySpanExporter())
    return Traces(processor, ratio=ratio, slow_seconds=30)


@pytest.mark.parametrize("spans", [trace(error="POISONED"), trace(seconds=30), trace(again=True)])
def test_what_went_wrong_is_always_kept(spans: list[Span]) -> None:
    assert traces(0.0).send(id_of(1), "", spans)


def test_of_the_others_a_share_is_kept() -> None:
    for ratio in (0.0, 0.1, 1.0):
        chosen = traces(ratio)
        kept = sum(chosen.keeps(id_of(n), "", 1.0) for n in range(4_000))
        assert kept == pytest.approx(4_000 * ratio, abs=100)


def test_whose_caller_is_sampled_is_kept() -> None:
    header = f"00-{TRACE}-{CALLER}-0"
    assert traces(0.0).send(id_of(1), header + "1", trace())
    assert not traces(0.0).send(id_of(1), header + "0", trace())


def test_a_collector_gets_one_connected_trace() -> None:
    generation_id = id_of(7)
    with collector() as kept:
        with sending(kept.address, ratio=0.0, slow_seconds=30) as sender:
            assert sender
            header = f"00-{TRACE}-{CALLER}-01"
            assert sender.send(generation_id, header, trace(2.0, "POISONED", again=True))
            assert not sender.send(id_of(8), "", trace())
        root, first, second = kept.of(int(TRACE, 16))
    assert len(kept.spans) == 3
    assert root.parent_span_id.hex() == CALLER
    assert (root.name, root.status.code) == ("generation", Status.STATUS_CODE_ERROR)
    assert root.status.message == "POISONED"
    assert root.end_time_unix_nano - root.start_time_unix_nano == 2_000_000_000
    assert first.parent_span_id == second.parent_span_id == root.span_id
    assert first.name == "attempt"
    assert [link.span_id for link in second.links] == [first.span_id]
    assert kept.parts[root.span_id] == "atelier-scheduler"
    assert kept.parts[first.span_id] == "atelier-agent"
    assert {a.key: a.value.string_value for a in root.attributes} == {
        "atelier.generation_id": generation_id
    }


def test_a_collector_that_is_away_costs_no_more_than_its_spans() -> None:
    with sending("http://127.0.0.1:9", ratio=1.0, slow_seconds=30) as sender:
        assert sender
        assert sender.send(id_of(1), "", trace())


def test_without_a_collector_nothing_is_made() -> None:
    with sending("", ratio=1.0, slow_seconds=30) as sender:
        assert sender is None
