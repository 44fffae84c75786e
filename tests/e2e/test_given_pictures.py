"""Pictures that are given: the way from a caller's bytes, or a result's key, to what is drawn."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from atelier.v1 import generation_pb2 as pb
from exporters.tiny.checker import measure
from exporters.tiny.scenes import Scene, prompt_of, render
from exporters.tiny.video_checker import read_clip
from exporters.tiny.video_scenes import Clip, prompt_of_clip, render_clip
from tests.e2e.conftest import Stack, create, wait_until

pytestmark = pytest.mark.real

Pixels = NDArray[np.uint8]
GIVEN = Scene("square", "red", "blue", position="left")
WANTED = Scene("ring", "yellow", "blue", position="left")
PICTURE = render(GIVEN)
MASK = np.zeros((64, 64), np.uint8)
MASK[14:51, 3:34] = 255


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image(pixels: Pixels) -> pb.InputImage:
    return pb.InputImage(data=png(pixels))


def pixels(result: pb.Result) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(result.inline_data)).convert("RGB"))


def psnr(one: Pixels, other: Pixels) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / error))


def shows(seen: Pixels, scene: Scene) -> bool:
    found = measure(seen)
    parts = ("shape", "colour", "background")
    return found is not None and all(getattr(found, p) == getattr(scene, p) for p in parts)


def test_little_strength_keeps_the_picture_and_all_of_it_obeys_the_prompt(stack: Stack) -> None:
    given = {"init_image": image(PICTURE), "seed": 3, "count": 3}
    same = stack.draw(prompt_of(GIVEN), strength=0.3, **given)
    near = stack.draw(prompt_of(WANTED), strength=0.05, **given)  # one step of twenty
    far = stack.draw(prompt_of(WANTED), strength=1.0, **given)
    assert len({result.sha256 for result in (*same, *near, *far)}) == 9
    for result in same:
        assert shows(pixels(result), GIVEN)
        assert psnr(pixels(result), PICTURE) > 25
    for result in near:
        assert psnr(pixels(result), PICTURE) > 20
    for result in far:
        assert shows(pixels(result), WANTED)
        assert psnr(pixels(result), PICTURE) < 20


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
def test_inpainting_draws_inside_of_the_mask_and_leaves_every_pixel_outside(
    stack: Stack, sampler: str
) -> None:
    given = {"init_image": image(PICTURE), "mask_image": image(MASK)}
    for result in stack.draw(prompt_of(WANTED), sampler=sampler, seed=5, count=2, **given):
        seen = pixels(result)
        np.testing.assert_array_equal(seen[MASK == 0], PICTURE[MASK == 0])
        assert shows(seen, WANTED)


def test_a_result_is_where_the_next_begins(stack: Stack) -> None:
    """A picture of tiny-image, named by its key, is what a clip of tiny-video begins with."""
    clip = Clip("circle", "green", "white", "right")
    [drawn] = stack.draw(prompt_of(Scene("circle", "green", "white", position="left")), seed=2)
    request = pb.CreateGenerationRequest(
        model="tiny-video",
        video=pb.VideoSpec(
            prompt=prompt_of_clip(clip),
            seed=4,
            first_frame=pb.InputImage(object_key=drawn.object_key),
        ),
    )
    done = stack.wait(stack.generations.CreateGeneration(request, timeout=20).generation.id)
    assert done.state == pb.GENERATION_STATE_SUCCEEDED, done
    with av.open(io.BytesIO(done.results[0].inline_data)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert psnr(frames[0], pixels(drawn)) > 25  # two autoencoders' passes, and H.264's
    reading = read_clip(frames)
    assert reading is not None
    assert reading.clip == clip


def test_a_clip_begins_with_a_picture_that_no_prompt_would_give(stack: Stack) -> None:
    """One whose colours are others: the first frame is the picture's, the rest the prompt's."""
    given = render_clip(Clip("square", "black", "yellow", "left"))[0]
    request = pb.CreateGenerationRequest(
        model="tiny-video",
        video=pb.VideoSpec(
            prompt="a red circle moving left on a white background", first_frame=image(given)
        ),
    )
    done = stack.wait(stack.generations.CreateGeneration(request, timeout=20).generation.id)
    with av.open(io.BytesIO(done.results[0].inline_data)) as container:
        first, *_, last = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert psnr(first, given) > 20
    assert psnr(last, given) < 10


def test_all_kinds_share_batches(stack: Stack) -> None:
    """At once: texts alone, starts from a picture, masks; each is what it is alone."""
    kinds: list[dict[str, Any]] = [
        {},
        {"init_image": image(PICTURE), "strength": 0.4},
        {"init_image": image(PICTURE), "mask_image": image(MASK), "sampler": "euler"},
    ]
    alone = [pixels(stack.draw(prompt_of(WANTED), seed=9, steps=30, **kind)[0]) for kind in kinds]
    made = [
        (stack.create(prompt_of(WANTED), seed=9, steps=30, **kind), expected)
        for _ in range(4)
        for kind, expected in zip(kinds, alone, strict=True)
    ]
    for generation_id, expected in made:
        done = stack.wait(generation_id)
        assert done.state == pb.GENERATION_STATE_SUCCEEDED, done
        assert psnr_or_equal(pixels(done.results[0]), expected) >= 45


def psnr_or_equal(one: Pixels, other: Pixels) -> float:
    return 100.0 if (one == other).all() else psnr(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [{}, {"mask_image": image(MASK)}])
def test_a_killed_agent_costs_neither_the_picture_nor_the_mask(
    stack: Stack, mask: dict[str, pb.InputImage]
) -> None:
    given = {"init_image": image(PICTURE), "strength": 0.9, "seed": 6, "steps": 100, "count": 8}
    expected = [r.sha256 for r in stack.draw(prompt_of(WANTED), **given, **mask)]
    made = stack.create(prompt_of(WANTED), **given, **mask)

    def under_way() -> bool:
        request = pb.GetGenerationRequest(id=made)
        progress = stack.generations.GetGeneration(request, timeout=10).generation.progress
        assert progress.total_steps == 90
        return bool(5 < progress.step < 90)

    wait_until(under_way, 60)
    restarts = stack.part("agent")["restarts"]
    stack.kill("agent")
    wait_until(lambda: stack.back("agent", restarts + 1), 60, lambda: stack.log.read_text())
    done = stack.wait(made)
    assert done.state == pb.GENERATION_STATE_SUCCEEDED, done
    assert done.attempt >= 2, "the agent was killed too late to matter"
    assert [result.sha256 for result in done.results] == expected


def test_what_is_gone_by_the_time_it_is_needed_is_told_by_its_field(stack: Stack) -> None:
    """The gateway takes a key that holds no picture any more; the agent names the field."""
    [drawn] = stack.draw(prompt_of(GIVEN), seed=1)
    key = drawn.object_key.replace("/0.png", "/7.png")
    request = create(prompt_of(WANTED), init_image=pb.InputImage(object_key=key))
    with pytest.raises(Exception, match="init_image"):
        stack.generations.CreateGeneration(request, timeout=20)
