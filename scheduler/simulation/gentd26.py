"""A scenario from the GenTD26 trace of real requests (Yan et al., SoCC 2025; alibaba/clusterdata,
cluster-trace-v2026-GenAI), whose files a user brings.

Only arrivals, model, steps, pictures and user are taken. Idle gaps are squeezed, each picture is a
request of its own (they share a group), and time is compressed until the load is `rho`. Service
times are SDXL-like; a model's load time is drawn from the times that the trace records.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random

from scheduler.model import Model, Shape
from scheduler.runqueue import Ticket, objective
from scheduler.simulation.scenario import GB, ScenarioError
from scheduler.simulation.world import Gpu, Scenario

WARMUP = 0.2  # of the horizon
LONGEST_GAP = 60.0  # seconds between arrivals
WEIGHTS_GB, ACTIVATION_GB = 7.0, 1.2
SDXL = Shape(0.012, 0.070, 0.25, ACTIVATION_GB * GB, 8, 0.5)
COMMON = "text encoders and VAE"
SHAPE, STEPS = "1024", 30
REQUESTS = 9_000
NODE = 8  # devices


@dataclass(frozen=True)
class Options:
    """How to make a scenario of the trace.

    Args:
        load_factor: of the load times; 0.2 is a fast path.
        start: the first request that is taken; pieces of 9,000 are 0, 9000 and 17823.
        host_memory_gb: of each node, for weights; with it `host_load_seconds` are what a load from
            there takes.
        shared_gb: of each model's 7 GB, what all of them have alike (text encoders and VAE).
    """

    rho: float
    load_factor: float = 1.0
    devices: int = 8
    memory_gb: float = 24.0
    start: int = 0
    count: int = REQUESTS
    seed: int = 1
    host_memory_gb: float = 0.0
    host_load_seconds: float = 3.5
    shared_gb: float = 0.0


def gentd26(requests_csv: Path, loads_csv: Path, options: Options) -> Scenario:
    """Read the two files. Raises ScenarioError."""
    rows = _requests(requests_csv, options)
    seconds = _load_times(loads_csv)
    rng = Random(options.seed)  # noqa: S311 (to be the same again)
    names = sorted({row.model for row in rows})
    loads = {name: options.load_factor * rng.choice(seconds) for name in names}
    work = sum(SDXL.work(row.steps) for row in rows for _ in range(row.pictures))
    horizon = work / (options.rho * options.devices)
    last = rows[-1].t or 1.0
    requests: list[Ticket] = []
    for i, row in enumerate(rows):
        level = {0: 2, 1: 0}.get(row.user % 4, 1)
        slo = objective(level, SDXL.work(row.steps))
        for _ in range(row.pictures):
            requests.append(
                Ticket(
                    f"{len(requests):08d}", str(row.user), row.model, SHAPE, 1, row.steps, level,
                    round(row.t / last * horizon, 6), slo=round(slo, 6), group=str(i),
                )
            )  # fmt: skip
    tier = options.host_memory_gb > 0
    return Scenario(
        name=f"gentd26-{options.memory_gb:g}gb-{options.rho:g}-x{options.load_factor:g}"
        + (f"-from{options.start}" if options.start else ""),
        horizon=horizon,
        warmup=WARMUP * horizon,
        gpus=tuple(
            Gpu(str(i), str(i // NODE), options.memory_gb * GB, 1.0)
            for i in range(options.devices)
        ),
        models={
            name: Model(
                name, WEIGHTS_GB * GB, load, {SHAPE: SDXL},
                load_host=min(load, options.host_load_seconds) if tier else None,
                shared={COMMON: options.shared_gb * GB} if options.shared_gb else {},
            )
            for name, load in loads.items()
        },
        requests=tuple(requests),
        seed=options.seed,
        rho=options.rho,
        host_memory={
            str(node): options.host_memory_gb * GB
            for node in range((options.devices + NODE - 1) // NODE)
            if tier
        },
    )  # fmt: skip


@dataclass(frozen=True)
class _Row:
    t: float  # seconds since the first, gaps squeezed
    user: int
    model: str
    steps: int
    pictures: int


def _requests(path: Path, options: Options) -> list[_Row]:
    found: list[_Row] = []
    users: dict[str, int] = {}  # in the order of their coming
    t, before = 0.0, None
    for i, (line, row) in enumerate(_lines(path)):
        user = users.setdefault(row.get("groupId") or "", len(users))
        if not options.start <= i < options.start + options.count:
            continue
        try:
            when = datetime.fromisoformat(row["gmt_create"])
            steps = int(float(row["num_inference_steps"] or STEPS))
            pictures = int(float(row["num_images_per_prompt"] or 1))
        except (KeyError, ValueError) as error:
            raise ScenarioError(f"{path.name} line {line}: {error}") from error
        if before is not None:
            t += min(max(0.0, (when - before).total_seconds()), LONGEST_GAP)
        before = when
        model = row.get("checkpoint_model_version_id") or "unknown"
        found.append(_Row(t, user, model, max(1, steps), max(1, pictures)))
    if not found:
        raise ScenarioError(f"{path.name}: no requests from {options.start} on")
    return found


def _load_times(path: Path) -> list[float]:
    found = []
    for line, row in _lines(path):
        try:
            found.append(float(row["value"]) / 1000)
        except (KeyError, ValueError) as error:
            raise ScenarioError(f"{path.name} line {line}: value: {error}") from error
    return found


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="") as file:
            return list(enumerate(csv.DictReader(file), start=2))
    except OSError as error:
        raise ScenarioError(f"{path.name}: {error.strerror}") from error
