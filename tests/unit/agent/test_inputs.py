"""Pictures that were given: image to image, inpainting, and what is refused, through commands."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2
from PIL import Image

from agent.buffers import StepRows
from agent.denoising import Denoising
from agent.inputs import GREY
from agent.start import shown_mask
from atelier.catalog import ModelCard
from atelier.errors import UnavailableError
from atelier.object_keys import input_key
from atelier.v1 import agent_pb2 as pb
from tests.support.cards import toy_card, video_card
from tests.unit.agent.conftest import Inside, an_inside
from tests.unit.agent.fakes import FakeTriton

Make = Callable[..., pb.ConnectResponse]
PICTURE, MASK, CLIP = (input_key("local", name * 64, "png") for name in "abc")
SQUARES = np.random.default_rng(1).integers(40, 216, (16, 16, 3), np.uint8)
PIXELS = SQUARES.repeat(4, 0).repeat(4, 1)  # one colour for each latent, so that nothing is lost
SOFT = np.zeros((64, 64), np.uint8)  # new in the middle, with a soft edge on its right
SOFT[18:45, 22:41], SOFT[18:45, 41:44] = 255, (192, 128, 64)


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def card(**latents: Any) -> ModelCard:
    plain = toy_card()
    return replace(
        plain,
        components=replace(plain.components, vae_encoder="toy__vae_encoder"),
        latents=replace(plain.latents, **latents),
    )


@pytest.fixture
async def studio() -> AsyncIterator[Inside]:
    """A device whose model takes pictures, and two in the store."""
    async with an_inside(card()) as made:
        made.store.objects |= {PICTURE: png(PIXELS), MASK: png(SOFT)}
        yield made


async def made(inside: Inside, command: pb.ConnectResponse) -> list[Any]:
    """The pictures' pixels."""
    inside.commands.obey(command)
    succeeded = await inside.until("succeeded")
    files = [inside.store.objects[result.object_key] for result in succeeded.results]
    return [np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in files]


async def refused(inside: Inside, command: pb.ConnectResponse) -> tuple[str, str, bool]:
    """Reason, text, and whether it may be tried again."""
    inside.commands.obey(command)
    failed = await inside.until("failed")
    info = error_details_pb2.ErrorInfo()
    assert failed.failure.details[0].Unpack(info)
    return info.reason, failed.failure.message, failed.retryable


async def test_a_low_strength_stays_near_and_makes_the_last_steps_only(
    studio: Inside, run_message: Make
) -> None:
    image: dict[str, Any] = {"steps": 20, "init_image": PICTURE, "count": 2}
    near = await made(studio, run_message(strength=0.1, **image))
    assert studio.triton.batches == [("toy", 2)] * 2
    told = [m.progress for m in studio.heard if m.WhichOneof("message") == "progress"]
    told += [m.progress for m in studio.collect() if m.WhichOneof("message") == "progress"]
    assert {progress.total_steps for progress in told} == {2}
    assert max(progress.step for progress in told) == 2
    far = await made(studio, run_message(strength=1.0, **image))
    assert len(studio.triton.batches) == 2 + 20
    for number in (0, 1):
        assert np.abs(near[number] - PIXELS).mean() < 20 < np.abs(far[number] - PIXELS).mean()
    assert (near[0] != near[1]).any()  # each has noise of its own


async def test_the_picture_is_brought_to_the_size_that_is_made(
    studio: Inside, run_message: Make
) -> None:
    seen: list[Any] = []
    studio.triton.fail = lambda verb, what: seen.append(what) if verb == "encode_image" else None
    command = run_message(width=128, init_image=PICTURE, strength=0.5, steps=4)
    (pixels,) = await made(studio, command)
    assert pixels.shape == (64, 128, 3)
    assert [images.shape for images in seen] == [(1, 64, 128, 3)]


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_ancestral", "dpmpp_2m", "lcm"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
async def test_outside_of_the_mask_it_is_the_picture_itself(
    studio: Inside, run_message: Make, sampler: str, strength: float
) -> None:
    image: dict[str, Any] = {"init_image": PICTURE, "mask_image": MASK, "strength": strength}
    for pixels in await made(studio, run_message(steps=5, count=2, sampler=sampler, **image)):
        np.testing.assert_array_equal(pixels[SOFT == 0], PIXELS[SOFT == 0])
        inside = pixels[20:43, 24:40] - PIXELS[20:43, 24:40].astype(int)
        assert np.abs(inside).mean() > 10


async def test_what_is_kept_is_kept_in_the_latents_too(studio: Inside, run_message: Make) -> None:
    """Without fresh noise or what the model made of it, at the end of any sampler."""
    decoded: list[Any] = []
    decode = studio.triton.decode

    async def watched(of: ModelCard, latents: Any) -> Any:
        decoded.append(latents)
        return await decode(of, latents)

    studio.triton.decode = watched  # type: ignore[method-assign]
    image: dict[str, Any] = {"init_image": PICTURE, "mask_image": MASK, "strength": 1.0}
    await made(studio, run_message(steps=5, sampler="euler_ancestral", **image))
    (latents,) = decoded
    expected = (SQUARES.transpose(2, 0, 1).astype(np.float32) - 128) / 64
    np.testing.assert_allclose(latents[0, :3, :4], expected[:, :4], atol=1e-6)
    assert np.abs(latents[0, :3, 5:11, 6:10] - expected[:, 5:11, 6:10]).max() > 0.1


async def test_all_kinds_share_a_batch_and_get_what_they_would_get_alone(
    studio: Inside, run_message: Make
) -> None:
    """A start from the picture, a mask, and a text alone; five rows in batches of at most four."""
    kinds: list[dict[str, Any]] = [
        {"init_image": PICTURE, "strength": 0.5, "seed": 3, "steps": 8},
        {"init_image": PICTURE, "mask_image": MASK, "strength": 1.0, "count": 2, "steps": 4},
        {"sampler": "euler", "seed": 9, "steps": 4, "count": 2},
    ]
    alone = [await made(studio, run_message(**kind)) for kind in kinds]
    before = len(studio.triton.batches)
    loop, here = studio.device._loop, asyncio.Semaphore(0)
    denoise, step = loop.denoise, studio.triton.step

    async def come(work: Denoising) -> None:
        here.release()
        await denoise(work)

    async def held(*given: Any) -> Any:
        if len(studio.triton.batches) == before:  # the first waits until all are there
            for _ in kinds:
                await here.acquire()
        return await step(*given)

    loop.denoise, studio.triton.step = come, held  # type: ignore[method-assign]
    for number, kind in enumerate(kinds):
        studio.commands.obey(run_message(f"together-{number}", **kind))
    together: dict[str, list[Any]] = {}
    for _ in kinds:
        succeeded = await studio.until("succeeded")
        files = [studio.store.objects[result.object_key] for result in succeeded.results]
        together[succeeded.attempt.generation_id] = [
            np.asarray(Image.open(io.BytesIO(file))) for file in files
        ]
    assert max(rows for _, rows in studio.triton.batches[before:]) == 4
    for number, expected in enumerate(alone):
        np.testing.assert_array_equal(together[f"together-{number}"], expected)


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "dpmpp_2m"])
@pytest.mark.parametrize("mask", [{}, {"mask_image": MASK}])
async def test_taken_off_it_goes_on_where_it_left_off(
    studio: Inside, run_message: Make, sampler: str, mask: dict[str, str]
) -> None:
    image = {"steps": 10, "strength": 0.6, "init_image": PICTURE, "sampler": sampler, **mask}
    expected = await made(studio, run_message("whole", **image))
    attempt = pb.Attempt(generation_id="gen", lease_token=1, device_id="cpu-0")
    preempt = pb.ConnectResponse(preempt=pb.PreemptAttempt(attempt=attempt, epoch=1))
    before = len(studio.triton.batches)
    studio.triton.before_step = lambda: (
        studio.commands.obey(preempt) if len(studio.triton.batches) == before + 1 else None
    )
    studio.commands.obey(run_message("gen", **image))
    assert (await studio.until("preempted")).step == 2  # of six
    again = run_message("gen", token=2, **image)
    again.run.generation.attempt = 2
    np.testing.assert_array_equal(await made(studio, again), expected)
    assert len(studio.triton.batches) - before == 6


@pytest.mark.parametrize(
    ("key", "file", "says"),
    [
        (input_key("local", "d" * 64, "png"), None, "is not there any more: send it again"),
        (input_key("other", "d" * 64, "png"), png(PIXELS), "is no object of yours"),
        ("checkpoints/local/gen", png(PIXELS), "is no object of yours"),
        (CLIP, b"no picture at all", "is no PNG, JPEG, WebP or AVIF file"),
        (CLIP, png(PIXELS)[:-600], "is corrupt or cut short"),
        (CLIP, b"\x89PNG" + bytes(8 * 2**20), "has more than 8 MiB: scale it down"),
    ],
)
@pytest.mark.parametrize("field", ["init_image", "mask_image"])
async def test_what_cannot_be_used_is_refused_and_named(
    studio: Inside, run_message: Make, field: str, key: str, file: bytes | None, says: str
) -> None:
    if file:
        studio.store.objects[key] = file
    image = {"init_image": PICTURE} | {field: key}
    reason, text, retryable = await refused(studio, run_message(strength=0.5, steps=4, **image))
    assert (reason, retryable) == ("INPUT_REFUSED", False)
    assert text.startswith(f"image.{field} {says}")
    assert studio.triton.batches == []
    told = [m.failed for m in studio.heard if m.WhichOneof("message") == "failed"]
    assert told[0].failure.code == code_pb2.INVALID_ARGUMENT


async def test_a_store_that_is_away_is_tried_again(studio: Inside, run_message: Make) -> None:
    def away(_key: str, *, most_bytes: int | None = None) -> bytes:
        raise UnavailableError("the object store is away")

    studio.store.get = away  # type: ignore[method-assign]
    told = await refused(studio, run_message(strength=0.5, steps=4, init_image=PICTURE))
    text = "image.init_image could not be read"
    assert told == ("OBJECT_STORE_UNAVAILABLE", text, True)


async def test_a_store_that_hangs_is_not_waited_for(
    studio: Inside, run_message: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.inputs.PATIENCE_SECONDS", 0.05)
    answers = threading.Event()

    def hangs(_key: str, *, most_bytes: int | None = None) -> bytes:
        assert answers.wait(10)
        return png(PIXELS)

    studio.store.get = hangs  # type: ignore[method-assign]
    reason, _, retryable = await refused(
        studio, run_message(strength=0.5, steps=4, init_image=PICTURE)
    )
    answers.set()
    assert (reason, retryable) == ("OBJECT_STORE_UNAVAILABLE", True)


async def test_a_model_without_an_encoder_takes_none(inside: Inside, run_message: Make) -> None:
    inside.store.objects[PICTURE] = png(PIXELS)
    told = await refused(inside, run_message(strength=0.5, steps=4, init_image=PICTURE))
    assert told == (
        "INPUT_REFUSED",
        "image.init_image is nothing that this model takes: leave it out",
        False,
    )


@pytest.mark.parametrize("masked", [True, False])
async def test_a_denoiser_that_was_trained_for_it_is_shown_the_mask(
    run_message: Make, masked: bool
) -> None:
    """And the picture with that part grey, at every step; for a text alone, all is new and grey."""
    shown: list[tuple[Any, Any]] = []

    def look(verb: str, what: Any) -> None:
        if verb == "step":
            rows: StepRows = what[2]
            assert rows.mask is not None
            assert rows.known is not None
            shown.append((rows.mask.copy(), rows.known.copy()))

    async with an_inside(card(masking="concat")) as studio:
        studio.store.objects |= {PICTURE: png(PIXELS), MASK: png(SOFT)}
        studio.triton.fail = look
        given = {"init_image": PICTURE, "mask_image": MASK, "strength": 1.0} if masked else {}
        pictures = await made(studio, run_message(steps=4, count=2, **given))
        assert (await studio.device.probe("toy")).error is None

    levels = np.where(SOFT >= 128, 255, 0) / np.float32(255) if masked else np.ones((64, 64))
    seen = PIXELS.copy()
    seen[levels >= 0.5] = GREY
    known = (seen[::4, ::4].transpose(2, 0, 1).astype(np.float32) - 128) / 64
    assert len(shown) == 4 + 1  # the probe's, too
    for mask, latents in shown[:-1]:
        for row in range(2):
            np.testing.assert_array_equal(mask[row], shown_mask(levels.astype(np.float32), 4))
            np.testing.assert_array_equal(latents[row, :3], known)
    for pixels in pictures if masked else []:
        np.testing.assert_array_equal(pixels[SOFT == 0], PIXELS[SOFT == 0])


async def test_a_clip_begins_with_the_picture(run_message: Make) -> None:
    """The latents of its first frame are the picture's at the end; the others are made."""
    clips = video_card()
    clips = replace(
        clips,
        components=replace(clips.components, vae_encoder="toy__vae_encoder"),
        latents=replace(clips.latents, first_frame=True),
    )
    decoded: list[Any] = []

    async def encode_clip(_card: ModelCard, images: Any) -> Any:
        assert images.shape == (1, 8, 64, 64, 3)
        assert (images == images[:, :1]).all()  # it stands still
        frames = [await FakeTriton().encode_image(_card, images[:, t]) for t in range(8)]
        return np.concatenate(frames, axis=1)

    async def decode_clip(_card: ModelCard, latents: Any) -> Any:
        decoded.append(latents)
        return np.zeros((1, 8, 64, 64, 3), np.uint8)

    command = run_message("clip", model="clips", video=True)
    video = command.run.generation.video
    video.width, video.height, video.steps, video.guidance = 64, 64, 4, 1.5
    video.frames, video.frames_per_second, video.seed, video.sampler = 8, 8, 7, "euler_ancestral"
    video.first_frame.object_key = PICTURE
    async with an_inside(clips) as studio:
        studio.store.objects[PICTURE] = png(PIXELS)
        studio.triton.encode_image = encode_clip  # type: ignore[method-assign]
        studio.triton.decode = decode_clip  # type: ignore[method-assign]
        studio.commands.obey(command)
        while not decoded:
            await studio.settle_down()
    (latents,) = decoded
    expected = (SQUARES.transpose(2, 0, 1).astype(np.float32) - 128) / 64
    np.testing.assert_allclose(latents[0, :3], expected, atol=1e-6)
    assert np.abs(latents[0, 4:7] - expected).mean() > 0.3


async def test_a_model_whose_clips_begin_anyhow_takes_no_first_frame(run_message: Make) -> None:
    command = run_message("clip", model="clips", video=True)
    command.run.generation.video.first_frame.object_key = PICTURE
    command.run.generation.video.width = command.run.generation.video.height = 64
    async with an_inside(video_card()) as studio:
        studio.store.objects[PICTURE] = png(PIXELS)
        told = await refused(studio, command)
    text = "video.first_frame is nothing that this model takes: leave it out"
    assert told == ("INPUT_REFUSED", text, False)
