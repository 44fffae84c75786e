"""Metrics of a process: instruments by OpenTelemetry's API, scraped from a Prometheus endpoint.

Whoever measures is given a Meter, and neither knows nor cares whether anybody scrapes: without an
address to listen on, its instruments go nowhere and cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import structlog
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import (
    Counter,
    Histogram,
    Meter,
    NoOpMeter,
    NoOpMeterProvider,
    Observation,
)
from opentelemetry.metrics import _Gauge as Gauge  # the API's own; its public name is to come
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import CardinalityLimits
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from atelier.instruments import Instrument, Kind

log = structlog.get_logger()

# Combinations of labels of one instrument; what comes beyond is counted together, under the label
# otel_metric_overflow. Labels are capped so that this is never met (labels.py).
MOST_SERIES = 2_000

Labels = Mapping[str, str | int]


class MetricsError(Exception):
    """The endpoint cannot be served; the message names the setting."""


@contextmanager
def exported(
    process: str, listen: str | None, setting: str = "ATELIER_METRICS_LISTEN"
) -> Iterator[Meter]:
    """A process's meter, for as long as the context lasts; scraped at http://`listen`/metrics.

    Args:
        process: the service's name, as the target tells it.
        listen: host:port; port 0 takes a free one, which the log tells. None: no endpoint.
        setting: which names `listen`.

    Raises:
        MetricsError: the address is taken, or not ours.
    """
    if listen is None:
        yield NoOpMeterProvider().get_meter(process)
        return
    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()  # its own: a test may have several
    ProcessCollector(registry=registry)  # CPU seconds, memory and open files of this process
    kinds = (sdk.Counter, sdk.Histogram, sdk.ObservableCounter, sdk.ObservableGauge)
    limits: CardinalityLimits = dict.fromkeys(kinds, MOST_SERIES)
    reader = PrometheusMetricReader(
        scope_info_enabled=False, registry=registry, cardinality_limits=limits
    )
    resource = Resource.create({"service.name": f"atelier-{process}"})
    provider = sdk.MeterProvider([reader], resource, shutdown_on_exit=False)
    try:
        try:
            server, thread = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise MetricsError(
                f"cannot serve metrics at {listen} ({error.strerror}): set"
                f" {setting} to another address, or leave it unset for none"
            ) from error
        log.info("serving metrics", address=f"{host}:{server.server_port}")
        try:
            yield provider.get_meter(process)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
    finally:
        provider.shutdown()


def is_scraped(meter: Meter | None) -> bool:
    """Whether anybody sees what is measured: where calls pass by the thousand, it is not, else."""
    return meter is not None and not isinstance(meter, NoOpMeter)


def counter(meter: Meter, declared: Instrument, *labels: Labels) -> Counter:
    """Make it. `labels`: those that are there from the start, as 0: a rise is seen only after."""
    made = meter.create_counter(declared.name, declared.unit, declared.help)
    for known in labels:
        made.add(0, known)
    return made


def gauge(meter: Meter, declared: Instrument) -> Gauge:
    """Make one that is set."""
    return meter.create_gauge(declared.name, declared.unit, declared.help)


def histogram(meter: Meter, declared: Instrument) -> Histogram:
    """Make it, with its buckets."""
    return meter.create_histogram(
        declared.name, declared.unit, declared.help,
        explicit_bucket_boundaries_advisory=declared.buckets,
    )  # fmt: skip


def observe(
    meter: Meter, declared: Instrument, look: Callable[[], Iterable[tuple[float, Labels]]]
) -> None:
    """Make a gauge or a counter that is looked at when it is scraped: by another thread."""
    make = (
        meter.create_observable_counter
        if declared.kind is Kind.COUNTER
        else meter.create_observable_gauge
    )
    make(
        declared.name,
        [lambda _: [Observation(value, labels) for value, labels in look()]],
        declared.unit,
        declared.help,
    )
