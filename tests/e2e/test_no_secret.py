"""P14 of a whole stack at work: what must not get out, looked for in all that it says of itself."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from atelier.cli.__main__ import app
from atelier.v1 import access_pb2, access_pb2_grpc, generation_pb2, webhook_pb2, webhook_pb2_grpc
from tests.e2e.conftest import Stack, create, wait_until

pytestmark = pytest.mark.real

PROMPT = "a small violet unicorn that nobody may hear of"
NEGATIVE = "an umbrella of theirs"
UNKNOWN = "01a20662-cf51-78bf-9779-1df9fc8debfa"
SIGNATURE = re.compile("X-Amz-Signature=([0-9a-f]+)")
DEVICES = "/atelier.v1.FleetService/ListDevices"


class Receiver(BaseHTTPRequestHandler):
    """Refuses each event, and says back all that it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        signed = self.headers["webhook-signature"]
        self.server.signatures.append(signed.partition(",")[2])  # type: ignore[attr-defined]
        self.send_response(400)
        self.end_headers()
        self.wfile.write(signed.encode() + body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Scene:
    stack: Stack
    secrets: dict[str, str] = field(default_factory=dict)  # by what they are
    told: list[str] = field(default_factory=list)  # by refusals

    def refused(self, code: grpc.StatusCode, call: Any, request: object, **options: Any) -> None:
        with pytest.raises(grpc.RpcError) as error:
            call(request, timeout=20, **options)
        assert error.value.code() is code
        self.told.append(f"{error.value.details()} {error.value.trailing_metadata()}")

    def clean(self, where: str, text: str, *allowed: str) -> None:
        found = {what for what, secret in self.secrets.items() if secret in text}
        assert found <= {*allowed}, f"{where} tells: {found}"


@pytest.fixture(scope="module")
def scene(stack: Stack) -> Iterator[Scene]:
    """A stack that has done, refused and suffered what it meets."""
    scene = Scene(stack, json.loads((stack.state_dir / "secrets.json").read_text()))
    del scene.secrets["s3_access_key"]  # a name: it is in every URL
    scene.secrets |= {"key": stack.key.split("_")[2], "prompt": PROMPT, "negative": NEGATIVE}
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    receiver.signatures = signatures = []  # type: ignore[attr-defined]
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    before = len(stack.traces.spans)
    try:
        hook = do(scene, f"http://127.0.0.1:{receiver.server_port}/")
        refuse(scene)
        wait_until(lambda: bool(signatures), 30)
        scene.secrets["signature of an event"] = signatures[0]
    finally:
        receiver.shutdown()
        receiver.server_close()
    suffer(scene, "postgres")
    wait_until(
        lambda: any(span.name.startswith("webhook") for span in stack.traces.spans[before:]), 30
    )
    yield scene
    hooks = webhook_pb2_grpc.WebhookServiceStub(stack.channel)
    hooks.DeleteWebhook(webhook_pb2.DeleteWebhookRequest(id=hook))


def do(scene: Scene, url: str) -> str:
    """Make a key, a webhook that is told prompts, and a picture; the webhook's id."""
    stack = scene.stack
    keys = access_pb2_grpc.AccessServiceStub(stack.channel)
    made = keys.CreateKey(access_pb2.CreateKeyRequest(tenant="else", scopes=["read"]))
    scene.secrets["another key"] = made.text.split("_")[2]
    hooks = webhook_pb2_grpc.WebhookServiceStub(stack.channel)
    hook = hooks.CreateWebhook(webhook_pb2.CreateWebhookRequest(url=url, include_prompts=True))
    scene.secrets["webhook's secret"] = hook.secret.removeprefix("whsec_")
    done = stack.wait(stack.create(PROMPT, negative_prompt=NEGATIVE, steps=2))
    found = SIGNATURE.search(done.results[0].url)
    assert found
    scene.secrets["signature of a URL"] = found[1]
    with urllib.request.urlopen(done.results[0].url, timeout=20) as answer:
        assert answer.read()
    return str(hook.webhook.id)


def refuse(scene: Scene) -> None:
    """Calls that are refused, with secrets in them."""
    stack, codes = scene.stack, grpc.StatusCode
    bad, picture = create(PROMPT, steps=-1), create(PROMPT)
    picture.image.init_image.data = PROMPT.encode()
    for request in (bad, picture):
        scene.refused(codes.INVALID_ARGUMENT, stack.generations.CreateGeneration, request)
    missing = generation_pb2.GetGenerationRequest(id=UNKNOWN)
    scene.refused(codes.NOT_FOUND, stack.generations.GetGeneration, missing)
    with grpc.insecure_channel(stack.address) as channel:
        call = channel.unary_unary(DEVICES, lambda _: b"", bytes)
        for shown in (stack.key[:-1], stack.key + "0", f"x {stack.key}"):
            sent = [("authorization", f"Bearer {shown}")]
            scene.refused(codes.UNAUTHENTICATED, call, None, metadata=sent)


def suffer(scene: Scene, part: str) -> None:
    """A part dies, and the others cannot reach it."""
    restarts = scene.stack.part(part)["restarts"]
    scene.stack.kill(part)
    wait_until(lambda: scene.stack.back(part, restarts + 1), 60)
    scene.stack.wait(scene.stack.create(PROMPT, negative_prompt=NEGATIVE, steps=2))


def test_the_logs_tell_nothing(scene: Scene) -> None:
    logs = {path.name: path.read_text() for path in (scene.stack.state_dir / "logs").iterdir()}
    parts = {part["name"] for part in scene.stack.record()["parts"]}
    assert parts <= {name.removesuffix(".log") for name in logs}
    for name, words in {
        "gateway": "call refused", "agent": "attempt ended", "webhooks": "not delivered",
        "scheduler": "error connecting", "postgres": "not properly shut down",
    }.items():  # fmt: skip
        assert words in logs[f"{name}.log"]
    for name, text in {**logs, "up": scene.stack.log.read_text()}.items():
        scene.clean(name, text)


def test_metrics_traces_and_refusals_tell_nothing(scene: Scene) -> None:
    for address in scene.stack.metrics:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as page:
            text = page.read().decode()
        assert "atelier_" in text
        scene.clean(address, text)
    scene.clean("traces", "".join(map(str, scene.stack.traces.spans)))
    assert len(scene.told) == 6
    scene.clean("a refusal", "\n".join(scene.told))


def test_what_any_user_of_the_machine_may_read_tells_nothing(scene: Scene) -> None:
    """But for Triton's own key: it takes that in no other way (docs/architecture.md)."""
    words = ["ps", "-eww", "-o", "args"]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "tritonserver" in listed and "-m gateway" in listed
    scene.clean("ps", listed, "triton_admin_key")
    for name in ("processes.json", "ports.json"):
        scene.clean(name, (scene.stack.state_dir / name).read_text())
    for name in ("key", "secrets.json"):
        assert Path(scene.stack.state_dir / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("command", ["ps", "doctor", "devices", "decisions", "keys list"])
def test_the_commands_tell_nothing(scene: Scene, command: str) -> None:
    words = [*command.split(), "--state-dir", str(scene.stack.state_dir)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    scene.clean(command, done.output)
