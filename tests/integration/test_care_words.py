"""Words of an agent that make no sense, hundreds of them, and what the scheduler makes of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.rpc import status_pb2

from atelier.translate import provenance_to, result_to
from atelier.v1 import agent_pb2 as pb
from scheduler import health
from scheduler.trace import check_integrity
from tests.support.generations import BY, RESULT, generation
from tests.support.house import House, house_over

GIB = 1 << 30
BROKEN = status_pb2.Status(code=13, message="a step failed")
PARTS = ["toy__text_encoder", "toy__denoiser", "toy__vae_decoder"]


@pytest.fixture
async def house(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(health, "SILENT_SECONDS", 0.0)
    async with house_over(dsn) as house:
        yield house


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_an_agent_says_the_books_are_right_and_the_device_comes_back(
    house: House, seed: int
) -> None:
    """Hundreds of words in any order, most of which make no sense; then a device that works."""
    rng = random.Random(seed)
    house.join(capacity=1_000)
    made = [await house.intake.submit(generation()) for _ in range(4)]

    def word() -> dict[str, Any]:
        sample = pb.DeviceSample(
            device_id="d0", healthy=rng.random() < 0.6, trouble=rng.choice((0, 1, 2, 3)),
            resident_models=rng.choice(([], ["toy"], ["toy", "unheard-of"])),
            measured_bytes=rng.choice((0, GIB, 9 * GIB)), total_bytes=rng.choice((0, 24 * GIB)),
            driver_answered=rng.random() < 0.8,
        )  # fmt: skip
        change = pb.ModelChanged(
            device_id="d0", model=rng.choice(("toy", "unheard-of")), seconds=rng.random(),
            resident=rng.random() < 0.5, measured_bytes=rng.choice((0, 8 * GIB, -GIB)),
            triton_models=rng.choice((PARTS, [], ["x"])), from_host_memory=rng.random() < 0.5,
        )  # fmt: skip
        batch = pb.BatchMeasured(
            device_id="d0", model=rng.choice(("toy", "unheard-of")),
            shape=rng.choice(("64x64", "9x9", "")), rows=rng.randint(-1, 9),
            step_seconds=rng.choice((0.0, 0.02, float("inf"), float("nan"))),
            peak_bytes=rng.choice((0, GIB)), quiet_bytes=rng.choice((0, 5, 2 * GIB)),
        )  # fmt: skip
        failure = BROKEN if rng.random() < 0.5 else None
        return rng.choice(
            (
                {"device_report": pb.DeviceReport(samples=[sample], host_models=["toy", "x"])},
                {"model_changed": change},
                {"batch_measured": batch},
                {"device_probed": pb.DeviceProbed(device_id="d0", failure=failure)},
                {"device_recycled": pb.DeviceRecycled(device_id="d0", failure=failure)},
            )
        )

    for _ in range(300):
        house.hear(**word())
        if rng.random() < 0.2:
            house.care.tick()
        if rng.random() < 0.05:
            await asyncio.sleep(0)
        check_integrity(house.live.sched)

    async def over() -> bool:
        rows = [await house.store.look(g.id) for g in made]
        return (
            all(row and row.state.final for row in rows) and house.live.sched.devices["d0"].usable
        )

    async with asyncio.timeout(60):
        while not await over():
            house.sample(*house.live.sched.devices["d0"].resident)
            house.care.tick()
            while not house.line.outgoing.empty():
                command = house.line.outgoing.get_nowait()
                assert command
                answer(house, command)
            check_integrity(house.live.sched)
            await asyncio.sleep(0.01)


def answer(house: House, command: pb.ConnectResponse) -> None:
    """Do as a healthy agent does."""
    match command.WhichOneof("message"):
        case "load_model":
            change = pb.ModelChanged(device_id="d0", model="toy", resident=True, seconds=1.0)
            house.hear(model_changed=change)
        case "unload_model":
            house.hear(model_changed=pb.ModelChanged(device_id="d0", model="toy"))
        case "probe_device":
            house.hear(device_probed=pb.DeviceProbed(device_id="d0"))
        case "recycle_device":
            house.hear(device_recycled=pb.DeviceRecycled(device_id="d0"))
        case "cancel":
            attempt = command.cancel.attempt
            house.hear(failed=pb.AttemptFailed(attempt=attempt, cancelled=True))
        case "run":
            results = [result_to(RESULT)]
            by = provenance_to(BY)
            attempt = command.run.attempt
            house.hear(
                succeeded=pb.AttemptSucceeded(attempt=attempt, results=results, provenance=by)
            )
