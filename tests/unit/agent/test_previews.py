"""Previews show what the latents hold, when they are asked for, and no step waits for them."""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent import previews as module
from agent.previews import Previews, draw, first_frame, shown
from agent.work import Attempt, Phase, Progressed
from atelier.catalog import Catalog, LatentFormat, LatentPreview, Safety
from tests.support.cards import toy_card
from tests.unit.agent.conftest import Inside

# The first three channels are colours, the fourth is light.
MAP = LatentPreview(((0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5), (0.1, 0.1, 0.1)), (0.5, 0.5, 0.5))
CARD = toy_card(preview=MAP)
GUARDED = replace(CARD, components=replace(CARD.components, safety=Safety("guard")))


def latents(*colour: float) -> np.ndarray:  # type: ignore[type-arg]
    made = np.zeros((4, 16, 16), np.float32)
    made[:3, :, 8:] = np.array(colour, np.float32)[:, None, None]
    return made


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_a_preview_is_a_small_jpeg_of_the_colours_where_they_are() -> None:
    image = opened(draw(latents(1, -1, -1), MAP))
    assert (image.format, image.size) == ("JPEG", (64, 64))
    left, right = image.getpixel((8, 32)), image.getpixel((56, 32))
    assert all(abs(c - 128) < 12 for c in left)  # nothing: the map's bias
    assert right[0] > 240 and max(right[1:]) < 15
    assert shown(latents(9, -9, 0), MAP)[0, -1].tolist() == [255, 0, 128]  # clipped


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((16, 16), (64, 64)),
        ((64, 128), (128, 256)),
        ((96, 40), (256, 107)),
        ((256, 512), (128, 256)),
    ],
)
def test_no_side_is_longer_than_256_and_noise_fits_the_limit(
    size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    noise = np.random.default_rng(1).standard_normal((4, *size)).astype(np.float32)
    data = draw(noise, MAP)
    assert opened(data).size == (drawn[1], drawn[0])
    assert len(data) < 2**15  # of 64 KiB that the scheduler takes


def test_of_a_clip_the_first_frame_is_shown() -> None:
    clip = np.arange(2 * 5 * 3 * 3, dtype=np.float32).reshape(2, 5, 3, 3)
    colours = replace(MAP, factors=MAP.factors[:2])
    timed = LatentFormat(2, 8, frames=5, output_frames=17)
    np.testing.assert_array_equal(first_frame(clip, timed, colours), clip[:, 0])
    stacked = clip.reshape(10, 3, 3)  # frames in the channels: five of two
    side_by_side = LatentFormat(10, 8, output_frames=5)
    np.testing.assert_array_equal(first_frame(stacked, side_by_side, colours), stacked[:2])


def told(step: int) -> Progressed:
    return Progressed(Attempt("gen-1", 1, "cpu-0"), Phase.DENOISING, step, 9, 0.1)


@pytest.mark.parametrize(
    ("card", "every", "steps"),
    [
        (CARD, 1, [1, 2, 3, 4, 5, 6, 7]),
        (CARD, 3, [3, 6]),
        (CARD, 0, []),
        (replace(CARD, preview=None), 1, []),  # its card was written before there were any
        (GUARDED, 1, []),  # they would show what is withheld
    ],
)
async def test_every_so_many_steps_has_one(card: Any, every: int, steps: list[int]) -> None:
    heard: list[Progressed] = []
    previews = Previews(card, every, heard.append)
    for step in range(1, 8):
        previews.after(told(step), latents(1, 1, 1))
        if previews._under_way:
            await asyncio.wait([previews._under_way])
            await asyncio.sleep(0)
    assert [one.step for one in heard] == steps
    assert all(opened(one.preview).size == (64, 64) for one in heard)


async def test_a_step_that_comes_while_one_is_drawn_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on = threading.Event()

    def slow(frame: Any, colours: LatentPreview) -> bytes:
        assert goes_on.wait(10)
        return draw(frame, colours)

    monkeypatch.setattr(module, "draw", slow)
    heard: list[Progressed] = []
    previews, now = Previews(CARD, 1, heard.append), latents(1, -1, -1)
    for step in (1, 2, 3):
        previews.after(told(step), now)
    now[:] = 0  # the loop writes the next step there
    goes_on.set()
    assert previews._under_way
    await asyncio.wait([previews._under_way])
    await asyncio.sleep(0)
    [one] = heard
    assert one.step == 1 and opened(one.preview).getpixel((56, 32))[0] > 240
    previews.after(told(4), now)
    await asyncio.wait([previews._under_way])
    await asyncio.sleep(0)
    assert [one.step for one in heard] == [1, 4]


async def test_what_cannot_be_drawn_costs_nothing_but_itself() -> None:
    heard: list[Progressed] = []
    previews = Previews(CARD, 1, heard.append)
    previews.after(told(1), latents(1, 1, 1)[:2])  # not as many channels as the map has
    assert previews._under_way
    await asyncio.wait([previews._under_way])
    previews.after(told(2), latents(1, 1, 1))
    await asyncio.wait([previews._under_way])
    await asyncio.sleep(0)
    assert [one.step for one in heard] == [2]


async def test_an_attempt_s_previews_go_out_beside_its_progress(
    inside: Inside, run_message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = inside.triton.step

    async def step_when_drawn(*told: Any) -> Any:
        for run in inside.commands._running.values():
            if run._previews._under_way:
                await asyncio.wait([run._previews._under_way])
        return await step(*told)

    monkeypatch.setattr(inside.triton, "step", step_when_drawn)
    inside.device._catalog = Catalog({"toy": CARD})
    inside.commands.obey(run_message(steps=6, preview_every=2))
    await inside.until("succeeded")
    progress = [m.progress for m in inside.heard if m.WhichOneof("message") == "progress"]
    seen = {one.step: opened(one.preview).size for one in progress if one.preview}
    assert {2, 4} <= seen.keys() <= {2, 4, 6}
    assert set(seen.values()) == {(64, 64)}
