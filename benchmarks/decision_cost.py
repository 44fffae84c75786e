"""What a decision costs: the core full of work, its calls timed one by one, in microseconds."""

from __future__ import annotations

import gc
from statistics import median
from time import perf_counter

from scheduler.decisions import Decision, Load
from scheduler.model import Model
from scheduler.runqueue import Late, Ticket
from scheduler.sched import Sched
from scheduler.simulation.families import KINDS
from scheduler.simulation.report import quantile
from scheduler.simulation.scenario import GB

SDXL = KINDS["sdxl"].shapes
ROUNDS, TICKS = 2_000, 60
RESIDENT = 6  # models on a device


def full_core(devices: int, models: int, queued: int) -> tuple[Sched, int]:
    """Every device runs something, and so many wait; returns how many tickets there were."""
    kinds = {f"m{i}": Model(f"m{i}", 8 * GB, 6.0, SDXL) for i in range(models)}
    core = Sched(kinds, late=Late.CASCADE)
    for d in range(devices):
        there = tuple(f"m{(d * RESIDENT + i) % models}" for i in range(RESIDENT))
        core.device_up(str(d), str(d // 8), 80 * GB, 0.0, resident=there)
    made = 0
    for made in range(queued + devices):
        _answer(core, core.submit(ticket(made, models, 0.0), 0.0), 0.0)
        if made < devices:
            _answer(core, core.boundary(str(made), 0.0), 0.0)
    for d in range(devices):
        _answer(core, core.boundary(str(d), 0.0), 0.0)
    return core, made + 1


def ticket(i: int, models: int, now: float) -> Ticket:
    return Ticket(f"{i:08d}", str(i % 8), f"m{i * 7919 % models}", "1024", 1, 30, i % 3, now)


def of_calls(devices: int, models: int, queued: int) -> dict[str, float]:
    """Medians and 99th percentiles of submit and of boundary, with as many queued all along."""
    core, made = full_core(devices, models, queued)
    submits, boundaries, now = [], [], 0.0
    busy = [d for d in core.devices.values() if d.running]
    gc.collect()
    gc.freeze()
    for i in range(ROUNDS):
        now += 0.001
        device = busy[i % len(busy)]
        for done in list(device.running.values()):
            core.finished(done)
        began = perf_counter()
        decided = core.boundary(device.id, now)
        boundaries.append(perf_counter() - began)
        _answer(core, decided, now)
        while len(core.queues) < queued:
            new = ticket(made, models, now)
            made += 1
            began = perf_counter()
            decided = core.submit(new, now)
            submits.append(perf_counter() - began)
            _answer(core, decided, now)
    gc.unfreeze()
    both = [*submits, *boundaries]
    return {
        "submit_p50": 1e6 * median(submits),
        "submit_p99": 1e6 * quantile(sorted(submits), 0.99),
        "boundary_p50": 1e6 * median(boundaries),
        "boundary_p99": 1e6 * quantile(sorted(boundaries), 0.99),
        "p50": 1e6 * median(both),
    }


def of_ticks(devices: int, models: int, queued: int) -> dict[str, float]:
    """sysmon's tick, in milliseconds."""
    core, _ = full_core(devices, models, queued)
    took = []
    for i in range(TICKS):
        now = 0.5 * (i + 1)
        began = perf_counter()
        decided = core.tick(now)
        took.append(1e3 * (perf_counter() - began))
        _answer(core, decided, now)
    return {"p50": median(took), "p99": quantile(sorted(took), 0.99), "max": max(took)}


def _answer(core: Sched, decisions: list[Decision], now: float) -> None:
    """Loads end at once, so that the loaders are always free to be thought about."""
    for decision in decisions:
        if isinstance(decision, Load):
            core.loaded(decision.device_id, decision.model, now)
