"""A device in trouble: what its samples say, its probes, and its Triton started anew."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.denoising import Denoising
from agent.device import FAULT_SECONDS, Device
from agent.gpu import Gauge
from agent.inputs import Inputs
from agent.recycle import end_process
from agent.results import Results
from agent.sampler import plan
from agent.work import BatchMeasured, DeviceTold, Measure, Trouble, Xid
from atelier.catalog import Catalog
from atelier.config import DeviceSettings
from atelier.embedded import processes
from atelier.errors import ExecutionError
from atelier.v1 import agent_pb2 as pb
from tests.support.cards import toy_card
from tests.unit.agent.conftest import Inside
from tests.unit.agent.fakes import DictStore, FakeTriton, Ticks, unavailable


class Script:
    """A driver that says what the test says."""

    def __init__(self) -> None:
        self.measure = Measure(used_bytes=500, total_bytes=1000)

    def sample(self) -> Measure:
        return self.measure

    def used(self) -> int:
        return self.measure.used_bytes


def device(
    triton: FakeTriton,
    driver: Script,
    clock: Callable[[], float] | None = None,
    tell: Callable[[DeviceTold], None] = lambda _: None,
) -> Device:
    card = toy_card()
    return Device(
        DeviceSettings(id="gpu-0", triton_address="127.0.0.1:1", capacity_bytes=2000),
        Catalog({card.name: card}),
        triton,  # type: ignore[arg-type]
        Results(DictStore()),
        inputs=Inputs(DictStore()),
        tokenizers={},
        clock=clock or Ticks(),
        gauge=Gauge(driver, "gpu-0"),
        tell=tell,
    )


async def test_a_lost_gpu_is_in_trouble_though_triton_answers() -> None:
    triton, driver = FakeTriton(), Script()
    one = device(triton, driver)
    assert (await one.sample()).trouble is Trouble.NONE
    driver.measure = Measure(lost="it fell off the bus")
    sample = await one.sample()
    assert (sample.trouble, sample.reason) == (Trouble.LOST, "it fell off the bus")
    probed = await one.probe("")
    assert probed.error is not None
    assert probed.error.message == "it fell off the bus"


async def test_the_work_is_not_blamed_for_a_lost_gpu() -> None:
    driver = Script()
    one = device(FakeTriton(), driver)
    failed = ExecutionError("the model failed on the device", retryable=True)
    assert await one.explain(failed) is failed
    driver.measure = Measure(lost="it fell off the bus")
    assert (await one.explain(failed)).reason == "DEVICE_UNAVAILABLE"


async def test_some_xids_make_a_device_unfit_for_a_while() -> None:
    now = [100.0]
    driver = Script()
    one = device(FakeTriton(), driver, lambda: now[0])
    driver.measure = Measure(xids=(Xid(13, 100.0),))  # an application's own fault
    assert (await one.sample()).trouble is Trouble.NONE
    driver.measure = Measure(xids=(Xid(95, 100.0), Xid(13, 100.0)))
    sample = await one.sample()
    assert (sample.trouble, sample.reason) == (Trouble.FAULT, "the driver told of XID 95")
    now[0] += FAULT_SECONDS
    assert (await one.sample()).trouble is Trouble.NONE


async def test_no_more_memory_is_declared_than_there_is() -> None:
    assert (await device(FakeTriton(), Script()).facts()).capacity_bytes == 1000


async def test_what_a_batch_holds_is_the_most_beside_what_was_quiet() -> None:
    triton, driver, told = FakeTriton(), Script(), list[DeviceTold]()
    one = device(triton, driver, tell=told.append)
    changed = await one.load("toy")
    assert (changed.measured_bytes, changed.resident) == (0, True)  # the script does not change
    loop = asyncio.create_task(one.run_loop())
    driver.measure = Measure(used_bytes=800, total_bytes=1000)
    card = toy_card()
    latents = np.zeros((2, 4, 16, 16), dtype=np.float32)
    for _ in range(2):
        work = Denoising(
            card, "64x64", plan(card.schedule, "ddim", 100), 1.5,
            np.zeros((2, 32, 64), dtype=np.float32), latents, latents, seeds=(7, 8)[: len(latents)],
            on_step=lambda *_: time.sleep(0.002),  # as a step takes: the driver is asked meanwhile
        )  # fmt: skip
        await one._loop.denoise(work)
        latents = latents[:1]  # the next batch is smaller
    while len(told) < 2:  # noqa: ASYNC110 - the loop tells when it is idle
        await asyncio.sleep(0)
    large, small = told
    assert isinstance(large, BatchMeasured)
    assert isinstance(small, BatchMeasured)
    assert (large.rows, large.peak_bytes, large.quiet_bytes) == (2, 800, 500)
    assert (small.rows, small.quiet_bytes) == (1, 0)  # the engine may keep what the large one took
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def probe(inside: Inside, model: str) -> pb.DeviceProbed:
    command = pb.ProbeDevice(device_id="cpu-0", model=model, epoch=1)
    inside.commands.obey(pb.ConnectResponse(probe_device=command))
    told: pb.DeviceProbed = await inside.until("device_probed")
    return told


async def test_a_probe_runs_one_step_and_leaves_nothing(inside: Inside) -> None:
    inside.triton.loaded = set()
    probed = await probe(inside, "toy")
    assert not probed.HasField("failure")
    assert inside.triton.batches == [("toy", 1)]
    assert inside.triton.loaded == set()
    assert (await inside.device.sample()).resident_models == ()
    inside.triton.loaded = {"toy__text_encoder", "toy__denoiser", "toy__vae_decoder"}
    inside.triton.log.clear()
    await probe(inside, "toy")
    assert inside.triton.log == []  # what was there stays


async def test_a_probe_says_what_does_not_work(inside: Inside) -> None:
    inside.triton.poison = True
    assert "not finite" in (await probe(inside, "toy")).failure.message
    inside.triton.poison = False
    inside.triton.loaded = set()
    inside.triton.fail = lambda verb, _: unavailable() if verb == "decode" else None
    assert "does not answer" in (await probe(inside, "toy")).failure.message
    assert inside.triton.loaded == set()
    inside.triton.fail = lambda *_: None
    assert "no model unheard-of" in (await probe(inside, "unheard-of")).failure.message
    inside.triton.alive = False
    assert (await probe(inside, "")).HasField("failure")
    inside.triton.alive = True
    assert not (await probe(inside, "")).HasField("failure")
    assert np.isfinite(inside.triton.batches[-1][1])


async def test_a_device_without_a_pid_file_says_so(inside: Inside) -> None:
    command = pb.RecycleDevice(device_id="cpu-0", reason="memory", epoch=1)
    inside.commands.obey(pb.ConnectResponse(recycle_device=command))
    recycled = await inside.until("device_recycled")
    assert "triton_pid_file" in recycled.failure.message


SLEEPER = "import signal, time; print(flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


def sleeping(code: str) -> subprocess.Popen[bytes]:
    """A process that is far enough to ignore what it wants to ignore."""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    child.stdout.close()
    return child


@pytest.mark.parametrize("how", ["pid", "pid and start", "stubborn", "stopped"])
async def test_the_process_that_the_file_names_is_ended(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.recycle.GRACE_SECONDS", 0.3)
    code = STUBBORN if how == "stubborn" else SLEEPER
    child = sleeping(code)
    if how == "stopped":
        os.kill(child.pid, signal.SIGSTOP)
    ticks = f" {processes.start_ticks(child.pid)}" if how != "pid" else ""
    (tmp_path / "pid").write_text(f"{child.pid}{ticks}\n")
    await end_process(tmp_path / "pid")
    asked, killed = -signal.SIGTERM, -signal.SIGKILL
    # One that was stopped has both signals waiting when it wakes.
    assert child.wait(10) in {"stubborn": {killed}, "stopped": {asked, killed}}.get(how, {asked})
    with pytest.raises(ExecutionError, match="not there to be ended"):
        await end_process(tmp_path / "pid")


async def test_another_process_with_that_pid_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{os.getpid()} 1\n")
    with pytest.raises(ExecutionError):
        await end_process(tmp_path / "pid")
    (tmp_path / "pid").write_text("soon\n")
    with pytest.raises(ExecutionError):
        await end_process(tmp_path / "pid")
