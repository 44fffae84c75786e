"""Traces: spans of what has ended, sent to an OpenTelemetry collector.

A generation's whole trace is made at its end, by the scheduler, out of what was noted on the way
(scheduler/story.py). So one place decides whether it is kept, when all is known: each that
failed, was slow or was tried again is, and of the others a share. And it is one connected trace
whatever was killed meanwhile. A caller whose own trace is sampled gets the generation's with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from atelier.generation import Generation
from atelier.spans import Span, parent_of, span_id_of, trace_id_of

log = structlog.get_logger()

_SCOPE = InstrumentationScope("atelier")


class Traces:
    """Sends spans, from a thread of its own: a collector that is away delays nobody. What cannot be
    sent is dropped, and told."""

    def __init__(self, processor: SpanProcessor, *, ratio: float, slow_seconds: float) -> None:
        """
        Args:
            ratio: the share that is kept of those that nothing else keeps, 0 to 1.
            slow_seconds: one that took longer is kept.
        """
        self._processor = processor
        self._kept_below = round(ratio * 2**56)
        self._slow_seconds = slow_seconds
        self._resources: dict[str, Resource] = {}

    def keeps(
        self, generation_id: str, traceparent: str, seconds: float, *, wrong: bool = False
    ) -> bool:
        """Whether the trace of a generation is worth keeping.

        Args:
            seconds: that it took, from the call to its end.
            wrong: it failed, or was tried again.
        """
        parent = parent_of(traceparent)
        if wrong or seconds >= self._slow_seconds or (parent and parent.sampled):
            return True
        # As others would by the same ratio: by the low 56 bits (OpenTelemetry, TraceIdRatioBased).
        return trace_id_of(generation_id, traceparent) % 2**56 < self._kept_below

    def of_generation(self, row: Generation, spans: Sequence[Span]) -> None:
        """Send it below its caller's span."""
        self.send(row.id, row.trace_parent, spans)

    def send(self, generation_id: str, traceparent: str, spans: Sequence[Span]) -> bool:
        """Send a generation's trace, the root first; whether it was kept."""
        root = spans[0]
        seconds = (root.end - root.start).total_seconds()
        wrong = bool(root.error) or any(span.after for span in spans)
        kept = self.keeps(generation_id, traceparent, seconds, wrong=wrong)
        if kept:
            self.add(generation_id, traceparent, spans)
        return kept

    def add(self, generation_id: str, traceparent: str, spans: Sequence[Span]) -> None:
        """Send spans of a generation's trace, whatever it is worth."""
        trace_id, caller = trace_id_of(generation_id, traceparent), parent_of(traceparent)
        above = SpanContext(trace_id, caller.span_id, is_remote=True) if caller else None

        def context(name: str) -> SpanContext:
            span_id = span_id_of(generation_id, name)
            return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(1))

        for span in spans:
            self._processor.on_end(
                ReadableSpan(
                    name=span.title or span.name,
                    context=context(span.name),
                    parent=context(span.parent) if span.parent else above,
                    resource=self._resource(span.part),
                    attributes={"atelier.generation_id": generation_id, **span.attributes},
                    events=[Event(name, dict(more), _nanos(at)) for at, name, more in span.events],
                    links=[Link(context(name)) for name in span.after],
                    kind=SpanKind.INTERNAL if span.parent else SpanKind.SERVER,
                    status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
                    start_time=_nanos(span.start),
                    end_time=_nanos(span.end),
                    instrumentation_scope=_SCOPE,
                )
            )

    def _resource(self, part: str) -> Resource:
        if part not in self._resources:
            self._resources[part] = Resource.create({"service.name": f"atelier-{part}"})
        return self._resources[part]


def _nanos(at: datetime) -> int:
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


@contextmanager
def sending(endpoint: str, *, ratio: float, slow_seconds: float) -> Iterator[Traces | None]:
    """Where a collector is set, what sends traces to it; on leaving, what waits is sent.

    Args:
        endpoint: of OTLP over HTTP, such as http://127.0.0.1:4318; empty for none.
    """
    if not endpoint:
        yield None
        return
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5.0)
    processor = BatchSpanProcessor(exporter, max_queue_size=16_384, schedule_delay_millis=1_000.0)
    log.info("sending traces", endpoint=endpoint, ratio=ratio, slow_seconds=slow_seconds)
    try:
        yield Traces(processor, ratio=ratio, slow_seconds=slow_seconds)
    finally:
        processor.shutdown()
