"""An operator at work on a real stack: by the command line and by grpcurl, with parts that die."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atelier.v1 import fleet_pb2, generation_pb2
from tests.e2e.conftest import MODEL, Stack, wait_until
from tests.e2e.test_command_line import HEARS_CTRL_C, atelier
from tests.e2e.test_grpcurl import asked, grpcurl
from tests.e2e.test_kills import killed

pytestmark = pytest.mark.real

PROMPT = "a green ring on a white background"
FLEET = "atelier.v1.FleetService"


def ordered(stack: Stack, *words: str) -> str:
    """What `atelier` says to an order that it takes."""
    done = atelier(*words, "--state-dir", str(stack.state_dir), cwd=stack.state_dir.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def device(stack: Stack) -> fleet_pb2.Device:
    request = fleet_pb2.ListDevicesRequest()
    [found] = stack.fleet.ListDevices(request, timeout=20, wait_for_ready=True).devices
    return found


def resident(stack: Stack) -> list[str]:
    return list(device(stack).resident_models)


def test_a_drain_holds_while_parts_die(stack: Stack) -> None:
    assert "drained: new fans" in ordered(stack, "drain", "cpu-0", "--reason", "new fans")
    waits = stack.create(PROMPT, steps=5)
    for part in ("scheduler", "agent"):
        killed(stack, part)
    wait_until(lambda: device(stack).state == fleet_pb2.DEVICE_STATE_DRAINED, 30)
    seen = json.loads(ordered(stack, "devices", "--json"))
    assert seen["devices"][0]["drainReason"] == "new fans"
    assert seen["queues"][0]["depth"] == 1
    for command in ("ps", "doctor"):
        assert "drained: new fans" in ordered(stack, command)
    assert "ready" in ordered(stack, "undrain", "cpu-0")
    assert stack.wait(waits).state == generation_pb2.GENERATION_STATE_SUCCEEDED


def test_draining_waits_for_what_runs(stack: Stack) -> None:
    long = stack.create(PROMPT, steps=60, count=4)
    wait_until(lambda: bool(device(stack).running), 30)
    said = ordered(stack, "drain", "cpu-0", "--wait")
    assert "cpu-0 is drained" in said
    assert not device(stack).running
    ordered(stack, "undrain", "cpu-0")
    assert stack.wait(long).state == generation_pb2.GENERATION_STATE_SUCCEEDED


def test_models_come_and_go_by_order(stack: Stack) -> None:
    names: dict[str, Any] = {"model": MODEL, "device_id": "cpu-0"}
    assert f"{MODEL} is on cpu-0" in ordered(stack, "load", MODEL, "cpu-0", "--wait")
    pinned = json.loads(grpcurl(stack, f"{FLEET}/PinModel", data=names))
    assert pinned["device"]["pinned_models"] == [MODEL]
    refused = asked(stack, f"{FLEET}/UnloadModel", data=names)
    assert "FailedPrecondition" in refused.stderr and "MODEL_PINNED" in refused.stderr
    grpcurl(stack, f"{FLEET}/UnpinModel", data=names)
    assert "unloads" in ordered(stack, "unload", MODEL, "cpu-0")
    wait_until(lambda: MODEL not in resident(stack) and not device(stack).unloading_model, 30)
    ordered(stack, "load", MODEL, "--wait")
    assert MODEL in resident(stack)
    trace = json.loads(grpcurl(stack, f"{FLEET}/GetTrace", data={"limit": 10}))
    # What host memory holds may be decided anew in between.
    moves = [d for d in trace["decisions"] if d["kind"] != "DECISION_KIND_HOLD"][-2:]
    assert [d["kind"] for d in moves] == ["DECISION_KIND_UNLOAD", "DECISION_KIND_LOAD"]
    assert all(d["reason"] for d in moves)
    assert "cpu-0{" in ordered(stack, "decisions", "-n", "1")


def test_grpcurl_watches_the_fleet(stack: Stack) -> None:
    watched = asked(
        stack, f"{FLEET}/WatchFleet", data={"past_decisions": 1000}, options=("-max-time", "2")
    )
    assert "DeadlineExceeded" in watched.stderr  # it does not end by itself
    assert watched.stdout.index('"snapshot"') < watched.stdout.index('"decisions"')
    assert '"id": "cpu-0"' in watched.stdout


def test_what_cannot_be_ordered_says_why(stack: Stack) -> None:
    state = ("--state-dir", str(stack.state_dir))
    unknown = atelier("drain", "cpu-7", *state, cwd=stack.state_dir.parent)
    assert unknown.returncode == 2
    assert "do you mean cpu-0?" in unknown.stderr


def test_watch_follows_a_generation_and_outlives_the_gateway(stack: Stack, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atelier.cli", "watch", "--state-dir", str(stack.state_dir)]
    log = tmp_path / "watch.log"
    with log.open("w") as out:
        watching = subprocess.Popen([*HEARS_CTRL_C, *command], stdout=out, stderr=out)
    try:
        wait_until(lambda: "cpu-0 is ready" in log.read_text(), 30, log.read_text)
        before = stack.create(PROMPT, steps=2)
        wait_until(lambda: f"run     {before}" in log.read_text(), 30, log.read_text)
        killed(stack, "gateway")
        wait_until(lambda: "the gateway is away" in log.read_text(), 30, log.read_text)
        made = [before]

        def told() -> bool:
            """Of one made after it was back: it may ask again only after eight seconds."""
            stack.wait(made[-1])
            made.append(stack.create(PROMPT, steps=1))
            return any(f"run     {one}" in log.read_text() for one in made[1:-1])

        wait_until(told, 30, log.read_text)
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
    assert "Traceback" not in log.read_text()
