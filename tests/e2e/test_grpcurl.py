"""The real grpcurl, with nothing but reflection: what an operator does by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MODEL, Stack

pytestmark = pytest.mark.real

GRPCURL = Path(sysconfig.get_path("scripts")) / "grpcurl"


def grpcurl(stack: Stack, *words: str, data: dict[str, Any] | None = None) -> str:
    done = asked(stack, *words, data=data)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(
    stack: Stack, *words: str, data: dict[str, Any] | None = None, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """As `atelier up` says that one should ask."""
    body = ["-d", json.dumps(data)] if data is not None else []
    key = ["-expand-headers", "-H", "authorization: Bearer ${KEY}"]
    command = [str(GRPCURL), "-plaintext", *key, *body, *options, stack.address, *words]
    environment = {**os.environ, "KEY": stack.key}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_services_are_listed(stack: Stack) -> None:
    services = grpcurl(stack, "list").split()
    assert {
        "atelier.v1.GenerationService",
        "atelier.v1.ModelService",
        "atelier.v1.FleetService",
        "grpc.health.v1.Health",
    } <= set(services)
    assert "SERVING" in grpcurl(stack, "grpc.health.v1.Health/Check")


def test_create_watch_get(stack: Stack) -> None:
    image = {"prompt": "a blue ring on a white background", "seed": 5, "steps": 10}
    service = "atelier.v1.GenerationService"
    made = json.loads(
        grpcurl(stack, f"{service}/CreateGeneration", data={"model": MODEL, "image": image})
    )["generation"]
    watched = grpcurl(stack, f"{service}/WatchGeneration", data={"id": made["id"]})
    assert "GENERATION_STATE_SUCCEEDED" in watched
    got = json.loads(grpcurl(stack, f"{service}/GetGeneration", data={"id": made["id"]}))
    assert got["generation"]["image"]["steps"] == 10
    assert got["generation"]["results"][0]["url"].startswith("http")


def test_generate_in_one_call(stack: Stack) -> None:
    create = {"model": MODEL, "image": {"prompt": "a red cross on a white background"}}
    told = grpcurl(stack, "atelier.v1.GenerationService/Generate", data={"create": create})
    assert told.rstrip().endswith("}") and "GENERATION_STATE_SUCCEEDED" in told
