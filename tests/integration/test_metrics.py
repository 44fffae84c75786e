"""Metrics as a Prometheus server reads them, from a meter and from a real scheduler."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from atelier.config import SchedulerSettings
from atelier.errors import InvalidArgumentError, Violation
from atelier.metrics import MetricsError, exported
from atelier.service import serving
from tests.e2e.conftest import wait_until
from tests.support.ports import free_address
from tests.support.processes import scheduler_process

Samples = dict[tuple[str, str], float]  # (name, generation or le or empty) -> value


def _text(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def scrape(address: str) -> Samples:
    """Every sample of the endpoint."""
    return {
        (sample.name, sample.labels.get("generation", "")): sample.value
        for family in text_string_to_metric_families(_text(address))
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
    assert found["atelier_queue_model_depth", ""] == 0  # there is a model, and nothing waits
    assert found["atelier_scheduler_leader", ""] == 1
    assert found["db_client_operation_duration_seconds_count", ""] > 0


async def test_calls_are_told_as_their_callers_were_told() -> None:
    address, metrics = free_address(), free_address()

    async def draw(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if request == b"wrong":
            raise InvalidArgumentError([Violation("x", "is wrong")])
        if request == b"slow":
            await asyncio.sleep(60)
        return b"done"

    async def count(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"one"
        if request == b"broken":
            raise RuntimeError("a fault of ours")

    methods = {
        "Draw": grpc.unary_unary_rpc_method_handler(draw, bytes),
        "Count": grpc.unary_stream_rpc_method_handler(count, bytes),
    }
    handlers = grpc.method_handlers_generic_handler("test.Toy", methods)
    with exported("test", metrics) as meter:
        async with (
            serving(address, [], lambda s: s.add_generic_rpc_handlers((handlers,)), meter=meter),
            grpc.aio.insecure_channel(address) as channel,
        ):
            ask = channel.unary_unary("/test.Toy/Draw")
            assert await ask(b"") == b"done"
            for wrong in (b"wrong", b"slow"):
                with pytest.raises(grpc.aio.AioRpcError):
                    await ask(wrong, timeout=0.5)
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/test.Toy/Nonsense")(b"")
            for request in (b"", b"broken"):
                with suppress(grpc.aio.AioRpcError):
                    assert [x async for x in channel.unary_stream("/test.Toy/Count")(request)]
            check = health_pb2_grpc.HealthStub(channel).Check  # asked every second, told nobody
            await check(health_pb2.HealthCheckRequest())
        text = await asyncio.to_thread(_text, metrics)
    told = {
        (s.labels["rpc_method"], s.labels["rpc_response_status_code"]): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name == "rpc_server_call_duration_seconds_count"
    }
    assert told == {
        ("test.Toy/Draw", "OK"): 1,
        ("test.Toy/Draw", "INVALID_ARGUMENT"): 1,
        ("test.Toy/Draw", "CANCELLED"): 1,
        ("test.Toy/Count", "OK"): 1,
        ("test.Toy/Count", "INTERNAL"): 1,
    }
