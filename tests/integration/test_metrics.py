"""Metrics as a Prometheus server reads them, from a meter and from a real scheduler."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from atelier.config import SchedulerSettings
from atelier.metrics import MetricsError, exported
from tests.e2e.conftest import wait_until
from tests.support.ports import free_address
from tests.support.processes import scheduler_process

Samples = dict[tuple[str, str], float]  # (name, generation or le or empty) -> value


def scrape(address: str) -> Samples:
    """Every sample of the endpoint."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get("generation", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_a_meter_is_scraped_and_gone_with_its_context() -> None:
    address = free_address()
    with exported("test", address) as meter:
        meter.create_counter("atelier.made", "{thing}", "Things").add(3)
        assert scrape(address)["atelier_made_total", ""] == 3
    with pytest.raises(OSError):
        scrape(address)
    with exported("test", address) as meter:  # and again, in the same process
        meter.create_counter("atelier.made", "{thing}", "Things").add(1)
        assert scrape(address)["atelier_made_total", ""] == 1


def test_an_address_that_is_taken_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(MetricsError, match=f"{address}.*ATELIER_METRICS_LISTEN"),
            exported("test", address),
        ):
            pass


def test_metrics_are_for_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SCHEDULER_LISTEN": "127.0.0.1:1", "POSTGRES_DSN": "", "METRICS_LISTEN": "0.0.0.0:9464",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"ATELIER_{name}", value)
    with pytest.raises(ValidationError, match="not loopback"):
        SchedulerSettings()


def test_a_scheduler_tells_its_pauses_and_its_lag(dsn: str, tmp_path: Path) -> None:
    address = free_address()
    with scheduler_process(dsn, tmp_path, metrics_listen=address):
        full = ("atelier_gc_pause_seconds_count", "2")
        wait_until(lambda: scrape(address).get(full, 0) >= 2, 20, lambda: str(scrape(address)))
        found = scrape(address)
    assert found["atelier_gc_pause_seconds_count", "0"] > found[full]  # young ones come more often
    assert 0 < found["atelier_gc_pause_seconds_sum", "2"] < 60
    assert found["atelier_loop_lag_seconds_count", ""] > 1
    assert found["atelier_gc_frozen", ""] > 1_000
    assert ("atelier_gc_collected_total", "") in found
