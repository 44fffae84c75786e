"""Clips that begin with a given picture: they do, and go on as their prompt says.

This is what `first_frame` in tiny-video's card stands on (docs/given-pictures.md): fifty pairs of a
picture and a prompt that says what it shows, half of combinations that no training step saw.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers")

from agent.denoising import Denoising
from agent.inputs import Brought, encode
from agent.sampler import plan
from agent.start import fresh_noise
from agent.step_loop import StepLoop
from agent.text import PromptIds
from atelier.catalog import Catalog
from atelier.spec import VideoSpec
from exporters.tiny.video_checker import read_clip
from exporters.tiny.video_obey import choose
from exporters.tiny.video_scenes import render_clip
from tests.support.onnx_device import OnnxDevice
from tests.unit.agent.fakes import Ticks

REPOSITORY = Path(__file__).parents[2] / "triton_repo"
CARD = Catalog.read(REPOSITORY).cards["tiny-video"]
PAIRS, STEPS, GUIDANCE = 50, 8, 1.5
LEAST_PSNR = 30.0  # dB; the autoencoder alone has 37

Frames = NDArray[np.uint8]


async def film(
    device: OnnxDevice, loop: StepLoop, prompt: str, seed: int, picture: Frames
) -> Frames:
    """uint8 (T, H, W, 3), by the agent's parts."""
    spec = VideoSpec(prompt, "", 64, 64, STEPS, GUIDANCE, seed, 8, 8, "ddim")
    ids = PromptIds(REPOSITORY, CARD).encode("", prompt)
    given = await encode(device, CARD, spec, Brought(picture))
    way = plan(CARD.schedule, spec.sampler, spec.steps)
    fresh = fresh_noise([seed], CARD.latents.shape(64, 64))
    work = Denoising(
        card=CARD,
        shape=spec.shape,
        plan=way,
        guidance=spec.guidance,
        text_embeddings=await device.encode_text(CARD, ids),
        latents=given.begin(way, fresh),
        denoised_prev=np.zeros_like(fresh),
        seeds=(seed,),
        kept=given.kept(fresh),
    )
    await loop.denoise(work)
    frames: Frames = (await device.decode(CARD, work.latents))[0]
    return frames


@pytest.mark.slow
async def test_a_clip_begins_with_its_picture_and_goes_on_as_its_prompt_says() -> None:
    assert CARD.latents.first_frame
    device, rng = OnnxDevice(REPOSITORY, CARD), np.random.default_rng(5)
    loop = StepLoop(device, Ticks())
    running = asyncio.create_task(loop.run())
    pairs = choose(PAIRS, seed=3)
    pictures = [render_clip(clip, rng=rng)[0] for _, clip in pairs]  # shaken: not what is expected
    clips = await asyncio.gather(
        *(
            film(device, loop, prompt, seed, picture)
            for seed, ((prompt, _), picture) in enumerate(zip(pairs, pictures, strict=True))
        )
    )
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    obeyed = 0
    for frames, picture, (_, asked) in zip(clips, pictures, pairs, strict=True):
        error = np.mean((frames[0].astype(float) - picture) ** 2)
        assert 10 * np.log10(255**2 / error) >= LEAST_PSNR
        reading = read_clip(frames)
        obeyed += reading is not None and reading.clip == asked
    assert obeyed >= 0.9 * PAIRS
