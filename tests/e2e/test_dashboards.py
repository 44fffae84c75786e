"""Every question of every dashboard, asked of a real Prometheus beside a stack that works."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.v1 import fleet_pb2, webhook_pb2, webhook_pb2_grpc
from atelier.v1 import generation_pb2 as pb
from scripts.dashboards import DASHBOARDS, Panel
from tests.e2e.conftest import Stack, create, wait_until
from tests.support.ports import free_address
from tests.support.prometheus import tool

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LISTENS = {
    "atelier-scheduler": "ATELIER_METRICS_LISTEN",
    "atelier-gateway": "ATELIER_GATEWAY_METRICS_LISTEN",
    "atelier-agent": "ATELIER_AGENT_METRICS_LISTEN",
    "atelier-webhooks": "ATELIER_WEBHOOKS_METRICS_LISTEN",
}
RECEIVER = {
    "ATELIER_WEBHOOK_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
    "ATELIER_WEBHOOK_ALLOWED_PORTS": "[]",
    "ATELIER_WEBHOOK_ALLOW_HTTP": "true",
}
ROUNDS, WINDOW = 3, "15s"  # of load; what Grafana's $__rate_interval is taken for


class Prometheus:
    """A server that scrapes every second, and evaluates the rules that are shipped."""

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        self.address = free_address()
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [address]}]}
            for job, address in targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "2s"},
            "rule_files": [str(ROOT / "deploy" / "prometheus" / "alerts.yml")],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self._log = (folder / "prometheus.log").open("wb")
        self._child = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address}",
            ],
            stderr=self._log,
        )
        self.began = time.time()

    def ask(self, path: str, **arguments: Any) -> Any:
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(
            f"http://{self.address}/api/v1/{path}?{query}", timeout=20
        ) as told:
            return json.load(told)["data"]

    def values(self, query: str) -> list[float]:
        """What it was at any moment since the start, where it was a number."""
        query = query.replace("$__rate_interval", WINDOW)
        told = self.ask("query_range", query=query, start=self.began, end=time.time(), step=1)
        found = [float(value) for line in told["result"] for _, value in line["values"]]
        return [value for value in found if math.isfinite(value)]

    def stop(self) -> None:
        self._child.terminate()
        self._child.wait(20)
        self._log.close()


class Receiver(BaseHTTPRequestHandler):
    """Takes every webhook."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    tool("prometheus")
    folder = tmp_path_factory.mktemp("dashboards")
    targets = {job: free_address() for job in LISTENS}
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as environment:
        for job, name in LISTENS.items():
            environment.setenv(name, targets[job])
        for name, value in RECEIVER.items():
            environment.setenv(name, value)
        stack = Stack(folder / "state", "--devices", "2")
        stack.start()
    scraping = Prometheus(folder, targets)
    try:
        hooks = webhook_pb2_grpc.WebhookServiceStub(stack.channel)
        url = f"http://127.0.0.1:{receiver.server_port}/"
        hooks.CreateWebhook(webhook_pb2.CreateWebhookRequest(url=url), timeout=20)
        for _ in range(ROUNDS):
            work(stack)
        time.sleep(5)  # the last of it is scraped, and told to the receiver
        yield scraping
    finally:
        scraping.stop()
        stack.stop()
        receiver.shutdown()
        receiver.server_close()


def work(stack: Stack) -> None:
    """Pictures and clips of every class, and a call that is refused."""
    asked = []
    for number in range(18):
        request = create("a red circle on a blue background", steps=12)
        if number % 6 == 5:
            request = pb.CreateGenerationRequest(
                model="tiny-video", video=pb.VideoSpec(prompt="a red circle moves right")
            )
        request.priority = 1 + number % 3  # type: ignore[assignment]
        asked.append(stack.generations.CreateGeneration(request, timeout=20).generation.id)
    with pytest.raises(grpc.RpcError):
        stack.create("", steps=-1)
    for generation_id in asked:
        stack.wait(generation_id, 240)
    for device in stack.fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=20).devices:
        for model in device.resident_models[:1]:  # to be loaded again, while Prometheus looks
            request = fleet_pb2.UnloadModelRequest(device_id=device.id, model=model)
            with suppress(grpc.RpcError):  # it loads or unloads something just now: as good
                stack.fleet.UnloadModel(request, timeout=20)


QUESTIONS = [
    pytest.param(query, panel, id=f"{name}: {panel.title}: {number}")
    for name, (_, panels) in DASHBOARDS.items()
    for panel in panels
    for number, query in enumerate(panel.queries)
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("query", "panel"), QUESTIONS)
def test_no_question_has_no_answer(prometheus: Prometheus, query: str, panel: Panel) -> None:
    if panel.gpu:
        pytest.skip("there is no GPU whose driver could tell")
    assert prometheus.values(query)


def test_every_part_is_there_and_nothing_is_alarming(prometheus: Prometheus) -> None:
    up = prometheus.ask("query", query="up")["result"]
    assert {line["metric"]["job"]: line["value"][1] for line in up} == dict.fromkeys(LISTENS, "1")
    groups = prometheus.ask("rules")["groups"]
    assert all(rule["health"] == "ok" for group in groups for rule in group["rules"])
    firing = prometheus.ask("query", query='ALERTS{alertstate="firing"}')["result"]
    assert not firing


def test_devices_times_add_up(prometheus: Prometheus) -> None:
    """What a device does is told of each second of it, once."""
    known = "count by (device) (atelier_device_time_seconds_total offset 20s)"
    wait_until(  # on a quick machine all else is asked before there are 20 s to tell of
        lambda: len(prometheus.ask("query", query=known)["result"]) == 2, 40, lambda: known
    )
    total = "sum by (device) (rate(atelier_device_time_seconds_total[20s]))"
    latest = prometheus.ask("query", query=total)["result"]
    assert len(latest) == 2
    for line in latest:
        assert float(line["value"][1]) == pytest.approx(1.0, abs=0.25)
