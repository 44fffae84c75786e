"""Metrics of a process: instruments by OpenTelemetry's API, scraped from a Prometheus endpoint.

Whoever measures is given a Meter, and neither knows nor cares whether anybody scrapes: without an
address to listen on, its instruments go nowhere and cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, start_http_server

log = structlog.get_logger()


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
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    resource = Resource.create({"service.name": f"atelier-{process}"})
    provider = MeterProvider([reader], resource, shutdown_on_exit=False)
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
