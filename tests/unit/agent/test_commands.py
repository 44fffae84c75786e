"""What an agent does with what it is told, and what it tells: books, fence, outcomes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc import error_details_pb2

from agent.commands import StaleLeaderError
from atelier.errors import ExecutionError
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import generation_pb2
from tests.unit.agent.conftest import Inside
from tests.unit.agent.fakes import unavailable

MakeRun = Callable[..., pb.ConnectResponse]


def reason(failed: pb.AttemptFailed) -> str:
    info = error_details_pb2.ErrorInfo()
    assert failed.failure.details[0].Unpack(info)
    return str(info.reason)


def kinds(messages: list[pb.ConnectRequest]) -> list[str]:
    return [str(message.WhichOneof("message")) for message in messages]


def cancel(run: pb.ConnectResponse, epoch: int = 1) -> pb.ConnectResponse:
    return pb.ConnectResponse(cancel=pb.CancelAttempt(attempt=run.run.attempt, epoch=epoch))


def settled(run: pb.ConnectResponse, *, accepted: bool = True) -> pb.ConnectResponse:
    return pb.ConnectResponse(settled=pb.AttemptSettled(attempt=run.run.attempt, accepted=accepted))


async def test_a_run_makes_its_pictures(inside: Inside, run_message: MakeRun) -> None:
    run = run_message("gen-1", token=5, count=2, seed=2**32 - 1)
    inside.commands.obey(run)
    done = await inside.until("succeeded")
    assert done.attempt == run.run.attempt
    assert [r.object_key for r in done.results] == [
        "results/local/gen-1/5/0.png",
        "results/local/gen-1/5/1.png",
    ]
    for result in done.results:
        data = inside.store.objects[result.object_key]
        assert result.sha256 == hashlib.sha256(data).hexdigest()
        assert (result.size_bytes, result.content_type) == (len(data), "image/png")
        assert (result.width, result.height, result.url) == (64, 64, "")
    assert [r.seed for r in done.results] == [2**32 - 1, 0]
    assert (done.provenance.engine, done.provenance.sampler) == ("onnxruntime", "ddim")
    assert (done.provenance.model_version, done.provenance.device) == ("sha256:0", "cpu-0")

    told = kinds(inside.heard)
    assert told.index("device_released") < told.index("succeeded")
    phases = [m.progress.phase for m in inside.heard if m.HasField("progress")]
    assert phases == sorted(phases)
    assert phases[-1] == generation_pb2.PHASE_UPLOADING


async def test_the_same_seed_is_the_same_file(inside: Inside, run_message: MakeRun) -> None:
    hashes = []
    for message in (run_message(seed=3), run_message(seed=3), run_message(seed=2, count=2)):
        inside.commands.obey(message)
        hashes.append([r.sha256 for r in (await inside.until("succeeded")).results])
    assert hashes[0] == hashes[1]
    assert hashes[2][1] == hashes[0][0]  # the second picture of seed 2 has seed 3


async def test_a_run_told_twice_runs_once(inside: Inside, run_message: MakeRun) -> None:
    run = run_message()
    inside.commands.obey(run)
    inside.commands.obey(run)
    await inside.until("succeeded")
    inside.commands.obey(run)  # its outcome is not settled yet
    await inside.settle_down()
    assert len(inside.triton.batches) == 3
    assert kinds(inside.collect()) == []


async def test_commands_of_a_deposed_leader_are_refused(
    inside: Inside, run_message: MakeRun
) -> None:
    inside.commands.obey(run_message("gen-1", epoch=7, steps=50))
    running = inside.commands.attempts()
    for stale in (
        run_message("gen-2", epoch=6),
        cancel(run_message("gen-1", epoch=6), epoch=6),
        pb.ConnectResponse(load_model=pb.LoadModel(device_id="cpu-0", model="toy", epoch=6)),
        pb.ConnectResponse(unload_model=pb.UnloadModel(device_id="cpu-0", model="toy", epoch=6)),
    ):
        inside.commands.obey(stale)
    assert inside.commands.attempts() == running
    assert inside.commands.epoch == 7
    assert (await inside.until("succeeded")).attempt.generation_id == "gen-1"
    assert inside.triton.log == []
    with pytest.raises(StaleLeaderError):
        inside.commands.welcome(pb.Welcome(epoch=6))
    inside.commands.welcome(pb.Welcome(epoch=8))
    assert inside.commands.epoch == 8


async def test_cancel_ends_within_one_step(inside: Inside, run_message: MakeRun) -> None:
    run = run_message(steps=100)

    def at_third() -> None:
        if len(inside.triton.batches) == 2:
            inside.commands.obey(cancel(run))

    inside.triton.before_step = at_third
    inside.commands.obey(run)
    failed = await inside.until("failed")
    assert failed.cancelled
    assert not failed.retryable
    assert len(inside.triton.batches) == 3
    assert inside.store.objects == {}


@pytest.mark.parametrize("verb", ["encode_text", "step", "decode"])
async def test_cancel_is_heard_in_every_phase(
    inside: Inside, run_message: MakeRun, verb: str
) -> None:
    run = run_message()

    def during(called: str, _what: Any) -> None:
        if called == verb:
            inside.commands.obey(cancel(run))

    inside.triton.fail = during
    inside.commands.obey(run)
    assert (await inside.until("failed")).cancelled
    assert inside.store.objects == {}


async def test_cancel_of_an_unknown_attempt_is_answered(
    inside: Inside, run_message: MakeRun
) -> None:
    inside.commands.obey(cancel(run_message("never-heard-of")))
    failed = await inside.until("failed")
    assert failed.cancelled
    assert inside.commands.attempts() == []


@pytest.mark.parametrize("verb", ["encode_text", "step", "decode"])
async def test_a_dead_triton_is_worth_another_attempt(
    inside: Inside, run_message: MakeRun, verb: str
) -> None:
    inside.triton.fail = lambda called, _: unavailable() if called == verb else None
    inside.commands.obey(run_message())
    failed = await inside.until("failed")
    assert (reason(failed), failed.retryable, failed.cancelled) == (
        "DEVICE_UNAVAILABLE", True, False
    )  # fmt: skip


async def test_an_object_store_that_is_away(inside: Inside, run_message: MakeRun) -> None:
    inside.store.broken = True
    inside.commands.obey(run_message())
    failed = await inside.until("failed")
    assert (reason(failed), failed.retryable) == ("UPLOAD_FAILED", True)
    assert "device_released" in kinds(inside.heard)


@pytest.mark.parametrize(
    ("changes", "expected", "retryable"),
    [
        ({"model": "unheard-of"}, "MODEL_UNKNOWN", True),
        ({"device_id": "gpu-9"}, "DEVICE_UNKNOWN", True),
        ({"video": True}, "NOT_IMPLEMENTED", False),
        ({"sampler": "heun"}, "INVALID_SPEC", False),
        ({"steps": 0}, "INVALID_SPEC", False),
    ],
)
async def test_what_cannot_be_run_fails_with_a_reason(
    inside: Inside, run_message: MakeRun, changes: dict[str, Any], expected: str, retryable: bool
) -> None:
    inside.commands.obey(run_message(**changes))
    failed = await inside.until("failed")
    assert (reason(failed), failed.retryable) == (expected, retryable)


async def test_a_bug_is_not_shown(inside: Inside, run_message: MakeRun) -> None:
    inside.triton.fail = lambda verb, _: KeyError("secret") if verb == "decode" else None
    inside.commands.obey(run_message())
    failed = await inside.until("failed")
    assert failed.retryable
    assert "secret" not in str(failed)


async def test_an_outcome_is_kept_until_it_is_settled(inside: Inside, run_message: MakeRun) -> None:
    run = run_message()
    inside.commands.obey(run)
    await inside.until("succeeded")  # written to a stream that broke
    assert [a.generation_id for a in inside.commands.attempts()] == ["gen-1"]
    inside.collect()
    inside.commands.welcome(pb.Welcome(epoch=1))
    assert kinds(inside.collect()) == ["device_released", "succeeded"]
    inside.commands.obey(settled(run))
    assert inside.commands.attempts() == []
    inside.commands.welcome(pb.Welcome(epoch=1))
    assert inside.collect() == []


async def test_revoked_attempts_are_stopped_and_forgotten(
    inside: Inside, run_message: MakeRun
) -> None:
    done, long = run_message(), run_message(steps=900)
    inside.commands.obey(done)
    await inside.until("succeeded")
    inside.commands.obey(long)
    revoked = [done.run.attempt, long.run.attempt]
    inside.commands.welcome(pb.Welcome(epoch=1, revoked=revoked))
    await inside.settle_down()
    assert inside.commands.attempts() == []
    assert inside.collect() == []
    assert len(inside.triton.batches) < 10


async def test_an_attempt_settled_while_it_runs_is_stopped(
    inside: Inside, run_message: MakeRun
) -> None:
    run = run_message(steps=900)
    inside.commands.obey(run)
    inside.commands.obey(settled(run, accepted=False))
    await inside.settle_down()
    assert inside.commands.attempts() == []
    assert len(inside.triton.batches) < 10


async def test_a_newer_attempt_takes_the_place_of_an_older(
    inside: Inside, run_message: MakeRun
) -> None:
    inside.commands.obey(run_message("gen-1", token=1, steps=900))
    inside.commands.obey(run_message("gen-1", token=2))
    inside.commands.obey(run_message("gen-1", token=1))  # late
    assert [a.lease_token for a in inside.commands.attempts()] == [2]
    assert (await inside.until("succeeded")).attempt.lease_token == 2


async def test_load_and_unload_in_order(inside: Inside) -> None:
    inside.triton.loaded = set()
    inside.commands.obey(
        pb.ConnectResponse(load_model=pb.LoadModel(device_id="cpu-0", model="toy", epoch=1))
    )
    changed = await inside.until("model_changed")
    assert (changed.resident, changed.HasField("failure")) == (True, False)
    assert changed.seconds > 0
    assert (await inside.device.facts()).resident_models == ("toy",)
    inside.commands.obey(
        pb.ConnectResponse(unload_model=pb.UnloadModel(device_id="cpu-0", model="toy", epoch=1))
    )
    changed = await inside.until("model_changed")
    assert (changed.resident, changed.HasField("failure")) == (False, False)
    assert inside.triton.log == [
        "load toy__text_encoder", "load toy__denoiser", "load toy__vae_decoder",
        "unload toy__vae_decoder", "unload toy__denoiser", "unload toy__text_encoder",
    ]  # fmt: skip


async def test_half_a_model_does_not_stay(inside: Inside) -> None:
    inside.triton.loaded = set()
    broken = ExecutionError("no room", retryable=True, reason="OUT_OF_MEMORY")
    inside.triton.fail = lambda verb, what: (
        broken if (verb, what) == ("load", "toy__denoiser") else None
    )
    inside.commands.obey(
        pb.ConnectResponse(load_model=pb.LoadModel(device_id="cpu-0", model="toy", epoch=1))
    )
    changed = await inside.until("model_changed")
    assert not changed.resident
    assert changed.failure.message == "no room"
    assert inside.triton.loaded == set()


async def test_a_model_in_use_is_not_unloaded(inside: Inside, run_message: MakeRun) -> None:
    assert (await inside.device.sample()).resident_models == ("toy",)
    inside.commands.obey(run_message())
    await inside.until("progress")
    inside.commands.obey(
        pb.ConnectResponse(unload_model=pb.UnloadModel(device_id="cpu-0", model="toy", epoch=1))
    )
    changed = await inside.until("model_changed")
    assert changed.resident
    assert changed.HasField("failure")
    await inside.until("succeeded")


async def test_what_a_batch_took_is_told_when_it_is_over(
    inside: Inside, run_message: MakeRun
) -> None:
    await inside.device.sample()
    inside.commands.obey(run_message(steps=12, count=2))
    told = await inside.until("batch_measured")
    assert (told.device_id, told.model, told.shape, told.rows) == ("cpu-0", "toy", "64x64", 2)
    assert (told.steps, told.step_seconds) == (11, 1.0)  # by a clock that ticks when it is read
    assert list(told.resident_models) == ["toy"]
    assert (told.peak_bytes, told.quiet_bytes) == (0, 0)  # no driver


async def test_uploads_that_hang_hold_up_nothing_else(inside: Inside, run_message: MakeRun) -> None:
    inside.store.open.clear()
    for _ in range(40):  # more than Python's own pool has threads
        inside.commands.obey(run_message(steps=1))
    await inside.settle_down()
    async with asyncio.timeout(5):
        assert (await inside.device.sample()).healthy
        await asyncio.to_thread(lambda: None)
    inside.store.open.set()


async def test_a_model_is_free_while_its_last_picture_uploads(
    inside: Inside, run_message: MakeRun
) -> None:
    """Released means released: the scheduler orders the unload as soon as it hears it."""
    await inside.device.sample()
    inside.store.open.clear()
    inside.commands.obey(run_message())
    await inside.until("device_released")
    inside.commands.obey(
        pb.ConnectResponse(unload_model=pb.UnloadModel(device_id="cpu-0", model="toy", epoch=1))
    )
    changed = await inside.until("model_changed")
    assert (changed.resident, changed.HasField("failure")) == (False, False)
    inside.store.open.set()
    await inside.until("succeeded")


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_a_change_that_broke_is_told(inside: Inside, verb: str) -> None:
    await inside.device.sample()
    if verb == "load":
        inside.triton.loaded.discard("toy__denoiser")  # what is there is not loaded again
    inside.triton.fail = lambda called, _: KeyError("secret") if called == verb else None
    change: Any = {
        "load": {"load_model": pb.LoadModel(device_id="cpu-0", model="toy", epoch=1)},
        "unload": {"unload_model": pb.UnloadModel(device_id="cpu-0", model="toy", epoch=1)},
    }[verb]
    inside.commands.obey(pb.ConnectResponse(**change))
    changed = await inside.until("model_changed")
    assert (changed.model, changed.resident) == ("toy", True)
    assert changed.HasField("failure")
    assert "secret" not in str(changed)


@pytest.mark.parametrize(("device", "model"), [("gpu-9", "toy"), ("cpu-0", "unheard-of")])
async def test_a_load_that_cannot_be_is_answered(inside: Inside, device: str, model: str) -> None:
    inside.commands.obey(
        pb.ConnectResponse(load_model=pb.LoadModel(device_id=device, model=model, epoch=1))
    )
    changed = await inside.until("model_changed")
    assert (changed.device_id, changed.model, changed.resident) == (device, model, False)
    assert changed.HasField("failure")


async def test_a_sample_tells_the_truth(inside: Inside) -> None:
    inside.triton.loaded.discard("toy__denoiser")
    sample = await inside.device.sample()
    assert (sample.healthy, sample.resident_models) == (True, ())
    inside.triton.loaded.add("toy__denoiser")
    assert (await inside.device.sample()).resident_models == ("toy",)
    inside.triton.fail = lambda *_: unavailable()
    sample = await inside.device.sample()
    assert not sample.healthy
    assert sample.reason == "the device does not answer"
    assert sample.resident_models == ("toy",)  # as last told
    inside.triton.fail = lambda *_: None
    inside.triton.alive = False
    assert not (await inside.device.sample()).healthy
