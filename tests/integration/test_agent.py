"""The agent against a real Triton and a scheduler that does what a test says."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image
from pydantic import SecretStr

from agent.app import serve
from atelier.catalog import Catalog
from atelier.config import AgentSettings, DeviceSettings, model_repository
from atelier.errors import NotFoundError
from atelier.object_store import Stored
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import agent_pb2_grpc as pb_grpc
from tests.integration.toy_model import (
    CRASH,
    NOT_A_NUMBER,
    OUT_OF_MEMORY,
    SLOW,
    write_repository,
)
from tests.support.ports import free_port

pytest.importorskip("pytriton", reason="the embedded Triton is not installed")
from atelier.embedded.part import NotReadyError
from atelier.embedded.triton import SHARED_MEMORY, Triton, missing_libpython

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(missing_libpython() is not None, reason="no libpython"),
]

KEY = "drawn-at-start"
PATIENCE_SECONDS = 30.0


class TritonProcess:
    """A real Triton that a test may kill and start again."""

    def __init__(self, folder: Path, repository: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._part = Triton(0, folder, repository, free_port(), KEY, threads=1)
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = self._part.address

    def start(self) -> None:
        self._part.prepare()
        command = self._part.command()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command.argv, cwd=command.cwd, env=dict(command.environment),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._part.probe()
            except NotReadyError:
                if time.monotonic() > give_up or self._process.poll() is not None:
                    raise AssertionError(self._log.read_text()[-4000:]) from None
                time.sleep(0.1)

    def kill(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for region in SHARED_MEMORY.glob(f"{self._part._shared_memory_prefix}*"):
                region.unlink(missing_ok=True)

    def signal(self, number: int) -> None:
        assert self._process
        os.killpg(self._process.pid, number)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    repository = tmp_path_factory.mktemp("its repository") / "toy"
    write_repository(repository)
    process = TritonProcess(tmp_path_factory.mktemp("its triton"), repository)
    process.repository = repository  # type: ignore[attr-defined]
    process.start()
    yield process
    process.kill()


class Scheduler(pb_grpc.AgentServiceServicer):
    """Says what the test says, keeps what the agent says."""

    def __init__(self) -> None:
        self.port = free_port()
        self.heard: list[Any] = []
        self.hellos: asyncio.Queue[pb.Hello] = asyncio.Queue()
        self.epoch = 1
        self._outgoing: asyncio.Queue[pb.ConnectResponse] = asyncio.Queue()
        self._news = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_AgentServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        assert self._server
        await self._server.stop(0)

    async def Connect(self, requests: Any, context: Any) -> AsyncIterator[pb.ConnectResponse]:
        hello = (await anext(requests)).hello
        self.hellos.put_nowait(hello)
        self._outgoing = asyncio.Queue()
        welcome = pb.Welcome(epoch=self.epoch, report_seconds=0.1)
        yield pb.ConnectResponse(welcome=welcome)
        listener = asyncio.create_task(self._listen(requests))
        try:
            while True:
                yield await self._outgoing.get()
        finally:
            listener.cancel()

    async def _listen(self, requests: Any) -> None:
        async for message in requests:
            kind = message.WhichOneof("message")
            self.heard.append(getattr(message, kind))
            self._news.set()
            if kind in ("succeeded", "failed", "preempted"):
                attempt = getattr(message, kind).attempt
                self.say(settled=pb.AttemptSettled(attempt=attempt, accepted=True))

    def say(self, **message: Any) -> None:
        self._outgoing.put_nowait(pb.ConnectResponse(**message))

    async def hear(self, of: type, where: Callable[[Any], bool] = lambda _: True) -> Any:
        """The first message of a type that fits, now or in a while."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                self._news.clear()
                for message in self.heard:
                    if isinstance(message, of) and where(message):
                        return message
                await self._news.wait()

    def run(
        self, name: str, *, token: int = 1, model: str = "toy", kind: str = "image", **given: Any
    ) -> None:
        run = pb.RunGeneration(epoch=self.epoch)
        run.attempt.CopyFrom(pb.Attempt(generation_id=name, lease_token=token, device_id="cpu-0"))
        run.generation.attempt = token
        run.generation.id, run.generation.tenant, run.generation.model = name, "local", model
        values: dict[str, Any] = {"prompt": "red circle", "width": 64, "height": 64, "steps": 8}
        values |= {"guidance": 1.5, "seed": 7, "sampler": "ddim"}
        values |= {"count": 1} if kind == "image" else {"frames": 8, "frames_per_second": 8}
        for field, value in (values | given).items():
            setattr(getattr(run.generation, kind), field, value)
        self.say(run=run)

    async def ended(self, name: str) -> Any:
        """How an attempt ended."""
        self.heard_types = (pb.AttemptSucceeded, pb.AttemptFailed)
        return await self.hear(object, lambda m: isinstance(
            m, self.heard_types) and m.attempt.generation_id == name)  # fmt: skip

    async def load(self, model: str = "toy") -> pb.ModelChanged:
        self.say(load_model=pb.LoadModel(device_id="cpu-0", model=model, epoch=self.epoch))
        changed: pb.ModelChanged = await self.hear(pb.ModelChanged, lambda m: m.model == model)
        return changed


class DictStore:
    """Takes the results."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, content_type: str) -> str:
        assert content_type == ("image/png" if key.endswith(".png") else "application/x-npz")
        self.objects[key] = data
        return key

    def put_stream(
        self, key: str, pieces: Callable[[], Iterable[bytes]], content_type: str
    ) -> Stored:
        assert content_type == "video/mp4"
        data = self.objects[key] = b"".join(pieces())
        return Stored(len(data), hashlib.sha256(data).hexdigest(), key)

    def get(self, key: str, *, most_bytes: int | None = None) -> bytes:
        if key not in self.objects:
            raise NotFoundError("no such object")
        return self.objects[key][:most_bytes]

    def delete(self, key: str) -> None:
        del self.objects[key]


@dataclass
class Rig:
    scheduler: Scheduler
    store: DictStore


def settings(triton: TritonProcess, scheduler: Scheduler, **changes: Any) -> AgentSettings:
    values: dict[str, Any] = {
        "s3_endpoint": "127.0.0.1:1",
        "s3_access_key": "unused",
        "s3_secret_key": SecretStr("unused"),
        "scheduler_address": f"127.0.0.1:{scheduler.port}",
        "node": "node-1",
        "devices": [
            DeviceSettings(id="cpu-0", triton_address=triton.address, capacity_bytes=2**30)
        ],
        "model_repository": triton.repository,  # type: ignore[attr-defined]
        "triton_admin_key": SecretStr(KEY),
    }
    return AgentSettings(**(values | changes))


@asynccontextmanager
async def an_agent(
    triton: TritonProcess, store: DictStore | None = None, **changes: Any
) -> AsyncIterator[Rig]:
    scheduler, store, stop = Scheduler(), store or DictStore(), asyncio.Event()
    await scheduler.start()
    agent = asyncio.create_task(serve(settings(triton, scheduler, **changes), stop, store))
    try:
        yield Rig(scheduler, store)
    finally:
        stop.set()
        async with asyncio.timeout(5):
            await agent
        await scheduler.stop()


@pytest.fixture
async def rig(triton: TritonProcess) -> AsyncIterator[Rig]:
    async with an_agent(triton) as made:
        await made.scheduler.hellos.get()
        await made.scheduler.load()
        made.scheduler.heard.clear()
        yield made


def reason(failed: pb.AttemptFailed) -> str:
    assert isinstance(failed, pb.AttemptFailed), failed
    info = error_details_pb2.ErrorInfo()
    assert failed.failure.details[0].Unpack(info)
    return str(info.reason)


async def test_pictures_come_out(rig: Rig) -> None:
    scheduler = rig.scheduler
    scheduler.run("a", count=3)
    scheduler.run("b", sampler="euler", steps=5, guidance=3.0, width=128)
    scheduler.run("c", seed=8)
    a, b, c = [await scheduler.ended(name) for name in "abc"]
    assert [r.object_key for r in a.results] == [f"results/local/a/1/{i}.png" for i in range(3)]
    assert a.results[1].sha256 != a.results[0].sha256
    assert (b.results[0].width, b.results[0].height) == (128, 64)
    pixels = np.asarray(Image.open(io.BytesIO(rig.store.objects[b.results[0].object_key])))
    assert pixels.shape == (64, 128, 3)
    assert pixels.std() > 1
    first, second = (
        np.asarray(Image.open(io.BytesIO(rig.store.objects[key])))
        for key in (a.results[1].object_key, c.results[0].object_key)
    )
    np.testing.assert_array_equal(first, second)  # seed 7 + 1, alone or not


async def test_the_same_seed_is_the_same_file(rig: Rig) -> None:
    hashes = []
    for name in ("a", "b"):
        rig.scheduler.run(name)
        hashes.append((await rig.scheduler.ended(name)).results[0].sha256)
    assert hashes[0] == hashes[1]


async def test_reports_tell_what_is_resident(rig: Rig) -> None:
    scheduler = rig.scheduler
    report = await scheduler.hear(pb.DeviceReport)
    (sample,) = report.samples
    assert (sample.healthy, sample.reason) == (True, "")
    assert list(sample.resident_models) == ["toy"]
    scheduler.say(unload_model=pb.UnloadModel(device_id="cpu-0", model="toy", epoch=1))
    changed = await scheduler.hear(pb.ModelChanged)
    assert (changed.resident, changed.HasField("failure")) == (False, False)
    scheduler.heard.clear()
    report = await scheduler.hear(pb.DeviceReport)
    assert list(report.samples[0].resident_models) == []
    scheduler.run("a")
    failed = await scheduler.ended("a")
    assert (reason(failed), failed.retryable) == ("MODEL_NOT_READY", True)


async def test_cancel_within_a_step(rig: Rig) -> None:
    scheduler = rig.scheduler
    scheduler.run("long", steps=100, guidance=SLOW)
    progress = await scheduler.hear(pb.AttemptProgress, lambda p: p.step >= 3)
    attempt = pb.Attempt(generation_id="long", lease_token=1, device_id="cpu-0")
    scheduler.say(cancel=pb.CancelAttempt(attempt=attempt, epoch=1))
    assert (await scheduler.ended("long")).cancelled
    steps = [m.step for m in scheduler.heard if isinstance(m, pb.AttemptProgress)]
    assert max(steps) < 100
    assert progress.total_steps == 100
    assert rig.store.objects == {}


@pytest.mark.parametrize(
    ("guidance", "expected", "retryable"),
    [
        (OUT_OF_MEMORY, "OUT_OF_MEMORY", True),
        (NOT_A_NUMBER, "INVALID_OUTPUT", False),
        (CRASH, "STUB_UNHEALTHY", True),
    ],
)
async def test_faults_of_a_model(rig: Rig, guidance: float, expected: str, retryable: bool) -> None:
    rig.scheduler.run("sick", guidance=guidance)
    failed = await rig.scheduler.ended("sick")
    assert failed.retryable == retryable
    assert reason(failed) == expected
    assert "secret" not in str(failed)
    rig.scheduler.run("well")
    assert isinstance(await rig.scheduler.ended("well"), pb.AttemptSucceeded)


async def test_a_model_that_crashed_can_be_unloaded(rig: Rig) -> None:
    scheduler = rig.scheduler
    scheduler.run("sick", guidance=CRASH)
    await scheduler.ended("sick")
    scheduler.run("well")
    await scheduler.ended("well")
    scheduler.say(unload_model=pb.UnloadModel(device_id="cpu-0", model="toy", epoch=1))
    changed = await scheduler.hear(pb.ModelChanged)
    assert (changed.resident, changed.HasField("failure")) == (False, False)
    scheduler.heard.clear()
    assert (await scheduler.load()).resident


async def test_a_scheduler_that_restarts(rig: Rig) -> None:
    scheduler = rig.scheduler
    scheduler.run("long", steps=60, guidance=SLOW)
    await scheduler.hear(pb.AttemptProgress, lambda p: p.step >= 3)
    await scheduler.stop()
    scheduler.epoch = 2
    await scheduler.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        hello = await scheduler.hellos.get()
    assert [a.generation_id for a in hello.attempts] == ["long"]
    assert hello.epoch == 1
    assert list(hello.devices[0].resident_models) == ["toy"]
    assert isinstance(await scheduler.ended("long"), pb.AttemptSucceeded)


async def test_a_triton_that_dies_and_comes_back(rig: Rig, triton: TritonProcess) -> None:
    scheduler = rig.scheduler
    scheduler.run("long", steps=100, guidance=SLOW)
    await scheduler.hear(pb.AttemptProgress, lambda p: p.step >= 3)
    triton.kill()
    failed = await scheduler.ended("long")
    assert (reason(failed), failed.retryable) == ("DEVICE_KILLED", True)
    await scheduler.hear(pb.DeviceReport, lambda r: not r.samples[0].healthy)
    scheduler.heard.clear()
    await asyncio.to_thread(triton.start)
    report = await scheduler.hear(pb.DeviceReport, lambda r: r.samples[0].healthy)
    assert list(report.samples[0].resident_models) == []
    assert (await scheduler.load()).resident
    scheduler.run("after")
    assert isinstance(await scheduler.ended("after"), pb.AttemptSucceeded)


async def test_a_triton_that_freezes(rig: Rig, triton: TritonProcess) -> None:
    triton.signal(signal.SIGSTOP)
    try:
        report = await rig.scheduler.hear(pb.DeviceReport, lambda r: not r.samples[0].healthy)
        assert "2 s" in report.samples[0].reason
        assert list(report.samples[0].resident_models) == ["toy"]
        rig.scheduler.heard.clear()
    finally:
        triton.signal(signal.SIGCONT)
    await rig.scheduler.hear(pb.DeviceReport, lambda r: r.samples[0].healthy)


async def test_a_wrong_key_is_reported(triton: TritonProcess) -> None:
    from agent import app

    patience, app.START_SECONDS = app.START_SECONDS, 0.5
    try:
        async with an_agent(triton, triton_admin_key=SecretStr("wrong")) as made:
            report = await made.scheduler.hear(pb.DeviceReport)
            assert not report.samples[0].healthy
            assert "wrong" not in report.samples[0].reason
    finally:
        app.START_SECONDS = patience


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_stops_cleanly(triton: TritonProcess, number: int) -> None:
    scheduler = Scheduler()
    await scheduler.start()
    silent = socket.create_server(("127.0.0.1", 0))  # an object store that never answers
    of = settings(triton, scheduler, s3_endpoint=f"127.0.0.1:{silent.getsockname()[1]}")
    environment = {
        **os.environ,
        **{f"ATELIER_{name.upper()}": str(value) for name, value in of if value is not None},
        "ATELIER_DEVICES": "[" + of.devices[0].model_dump_json() + "]",
        "ATELIER_S3_SECRET_KEY": "unused",
        "ATELIER_TRITON_ADMIN_KEY": KEY,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "agent",
        env=environment, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_SECONDS):
        await scheduler.hellos.get()
    await scheduler.load()
    scheduler.run("long", steps=100, guidance=SLOW)
    await scheduler.hear(pb.AttemptProgress, lambda p: p.step >= 2)
    scheduler.run("uploading", steps=1)
    await scheduler.hear(pb.DeviceReleased)
    process.send_signal(number)
    async with asyncio.timeout(6):
        _, errors = await process.communicate()
    await scheduler.stop()
    silent.close()
    text = errors.decode()
    assert process.returncode == 0, text
    assert "Traceback" not in text
    assert "red circle" not in text  # no prompt is ever logged
    assert KEY not in text


async def test_settings_that_are_missing_are_named() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ATELIER_S3_SECRET_KEY": "canary", "ATELIER_NODE": "n"},
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"ATELIER_SCHEDULER_ADDRESS" in errors
    assert b"canary" not in errors
    assert b"Traceback" not in errors


async def test_the_shipped_models_make_pictures(
    tmp_path: Path,
) -> None:
    """Whatever lies in the model repository: every card, every sampler, one picture or clip."""
    repository = model_repository()
    if not list(repository.glob("*.toml")):
        pytest.skip("no model is shipped yet")
    process = TritonProcess(tmp_path / "its triton", repository)
    process.repository = repository  # type: ignore[attr-defined]
    try:
        await asyncio.to_thread(process.start)
        async with an_agent(process) as made:
            await made.scheduler.hellos.get()
            for card in Catalog.read(repository).cards.values():
                assert (await made.scheduler.load(card.name)).resident
                side = int(card.limits["width"].default)
                for sampler in card.samplers:
                    name = f"{card.name}-{sampler}"
                    made.scheduler.run(
                        name, model=card.name, kind=card.kind, width=side, height=side,
                        prompt="a red circle", steps=8, sampler=sampler,
                    )  # fmt: skip
                    ended = await made.scheduler.ended(name)
                    assert isinstance(ended, pb.AttemptSucceeded), ended
                    data = made.store.objects[ended.results[0].object_key]
                    if card.kind == "image":
                        assert Image.open(io.BytesIO(data)).size == (side, side)
                        continue
                    with av.open(io.BytesIO(data)) as container:
                        shown = [(f.width, f.height) for f in container.decode(video=0)]
                    assert shown == [(side, side)] * card.latents.output_frames
    finally:
        process.kill()
