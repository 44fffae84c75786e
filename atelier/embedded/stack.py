"""All parts of one machine's stack, with their addresses and secrets put together.

postgres ──> scheduler ──> agent
s3, triton-0, triton-1 ... ──^
             scheduler ──> gateway <── s3 (it signs URLs)
postgres ──> webhooks

Where there are several schedulers one leads, and the others stand by.
"""

from __future__ import annotations

import json
import os
import platform
import socket
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom

from atelier.config import model_repository
from atelier.embedded.part import Part
from atelier.embedded.ports import PortBook, is_free, share_of
from atelier.embedded.postgres import Postgres
from atelier.embedded.rooms import Agent, Room, Scheduler
from atelier.embedded.s3 import BUCKET, PORTS, ObjectStore
from atelier.embedded.state import StateDir
from atelier.embedded.triton import Triton

DEVICE_BYTES = 2 * 2**30
HOST_BYTES = 2**28  # of the machine's memory, for files of models that are used


@dataclass(frozen=True)
class StackOptions:
    """What a user may choose."""

    devices: int = 1
    device_bytes: int = DEVICE_BYTES
    gateway_port: int | None = None
    schedulers: int = 1
    require_keys: bool = False  # whoever drives a stack from inside is asked for none
    repository: Path = field(default_factory=model_repository)


@dataclass(frozen=True)
class Stack:
    """Every part, those that are needed first."""

    parts: tuple[Part, ...]
    gateway: str
    devices: int


def build(state: StateDir, options: StackOptions, *, keep_ports: bool = False) -> Stack:
    """Put a stack together; nothing is started.

    Args:
        keep_ports: take the ports of a stack that runs as they are, to look at it from outside.

    Raises:
        PartError: a port that was asked for is taken.
    """
    free = (lambda _: True) if keep_ports else is_free
    book = PortBook(state.ports, SystemRandom(), free, share_of(os.getpid()))
    secrets = state.secrets()
    threads = max(1, (os.cpu_count() or 1) // options.devices)

    postgres = Postgres(
        state.root / "postgres", book.take("postgres"), secrets["postgres_password"]
    )
    store = ObjectStore(
        state.root / "s3",
        {server: book.take(server) for server in PORTS},
        secrets["s3_access_key"],
        secrets["s3_secret_key"],
        secrets["s3_inner_key"],
    )
    tritons = [
        Triton(
            index,
            state.root / "triton" / str(index),
            options.repository,
            book.take(f"triton-{index}"),
            secrets["triton_admin_key"],
            threads,
        )
        for index in range(options.devices)
    ]
    schedulers = {
        name: f"127.0.0.1:{book.take(name)}" for name in _scheduler_names(options.schedulers)
    }
    gateway = f"127.0.0.1:{book.take('gateway', options.gateway_port)}"
    webhooks = f"127.0.0.1:{book.take('webhooks')}"
    if not keep_ports:
        book.save()
        state.make_key()
    rooms = _rooms(state, options, postgres, store, tritons, schedulers, gateway, webhooks)
    return Stack((postgres, store, *tritons, *rooms), gateway, options.devices)


def _rooms(
    state: StateDir,
    options: StackOptions,
    postgres: Postgres,
    store: ObjectStore,
    tritons: list[Triton],
    schedulers: dict[str, str],
    gateway: str,
    webhooks: str,
) -> tuple[Part, ...]:
    results = {
        "ATELIER_S3_ENDPOINT": store.address,
        "ATELIER_S3_ACCESS_KEY": store.access_key,
        "ATELIER_S3_SECRET_KEY": store.secret_key,
        "ATELIER_S3_BUCKET": BUCKET,
        "ATELIER_S3_SECURE": "false",
    }
    # Whatever the environment says: the rooms' models are those that Triton has.
    models = {"ATELIER_MODEL_REPOSITORY": str(tritons[0].repository)}
    hardware = cpu_name()
    devices = [
        {
            "id": f"cpu-{triton.index}",
            "triton_address": triton.address,
            "capacity_bytes": options.device_bytes,
            "hardware": hardware,
            "triton_pid_file": str(triton.pid_file),
        }
        for triton in tritons
    ]
    scheduler = ",".join(schedulers.values())
    brains = [
        Scheduler(
            name,
            address,
            {
                **models,
                **results,
                "ATELIER_SCHEDULER_LISTEN": address,
                "ATELIER_POSTGRES_DSN": postgres.dsn,
            },
            state.root,
            needs=(postgres.name,),
            module="scheduler",
            rivals=tuple(other for other in schedulers.values() if other != address),
        )
        for name, address in schedulers.items()
    ]
    hands = Agent(
        "agent",
        "",
        {
            **models,
            **results,
            "ATELIER_SCHEDULER_ADDRESS": scheduler,
            "ATELIER_NODE": socket.gethostname(),
            "ATELIER_DEVICES": json.dumps(devices),
            "ATELIER_HOST_MEMORY_BYTES": str(HOST_BYTES),
            "ATELIER_TRITON_ADMIN_KEY": tritons[0].admin_key,
        },
        state.root,
        needs=("scheduler", store.name, *(triton.name for triton in tritons)),
        scheduler=scheduler,
        devices=tuple(str(device["id"]) for device in devices),
    )
    # Whoever may call this stack is on this machine, and can post to it without our help.
    receivers = {
        "ATELIER_WEBHOOK_ALLOWED_NETWORKS": '["127.0.0.0/8", "::1/128"]',
        "ATELIER_WEBHOOK_ALLOWED_PORTS": "[]",
        "ATELIER_WEBHOOK_ALLOW_HTTP": "true",
    }
    teller = Room(
        "webhooks",
        webhooks,
        {
            **receivers,
            "ATELIER_WEBHOOKS_LISTEN": webhooks,
            "ATELIER_POSTGRES_DSN": postgres.dsn,
        },
        state.root,
        needs=(postgres.name,),
    )
    door = Room(
        "gateway",
        gateway,
        {
            **models,
            **results,
            **receivers,
            "ATELIER_GATEWAY_LISTEN": gateway,
            "ATELIER_REQUIRE_KEYS": str(options.require_keys).lower(),
            "ATELIER_OPERATOR_KEYS": str(state.key),
            "ATELIER_SCHEDULER_ADDRESS": scheduler,
        },
        state.root,
        needs=("scheduler", store.name),
    )
    return *brains, hands, door, teller


def _scheduler_names(count: int) -> list[str]:
    return ["scheduler", *(f"scheduler-{index}" for index in range(1, count))]


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What this machine's processor calls itself."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
