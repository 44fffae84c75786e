"""Image to image and inpainting by the agent, over exported graphs, against diffusers' pipelines.

Both have the same noise, and the middle of what the encoder believes instead of a draw around it.
What is compared under a mask is what lies in it: outside, ours is the picture's own pixels.
"""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers")

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as img2img
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from diffusers.schedulers import scheduling_euler_ancestral_discrete as euler_ancestral

from agent.sampler import noise
from agent.text import PromptIds
from atelier.catalog import Catalog, ModelCard
from atelier.object_keys import input_key
from atelier.v1 import agent_pb2 as pb
from exporters.tiny.checkpoint import load_pipeline
from exporters.tiny.scenes import Scene, prompt_of, render
from tests.exporters.test_families import Case, export
from tests.support.onnx_device import OnnxDevice
from tests.unit.agent.conftest import an_inside

Pixels = NDArray[np.uint8]
ROOT = Path(__file__).parents[2]
PICTURE_KEY, MASK_KEY = (input_key("local", name * 64, "png") for name in "ab")
PROMPT = prompt_of(Scene("ring", "yellow", "blue", position="left"))
SEED, STEPS, GUIDANCE = 7, 12, 1.5
SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}


def picture(side: int) -> Pixels:
    return render(Scene("square", "red", "blue", position="left"), side)


def mask(side: int, downscale: int) -> Pixels:
    """Whole latents, so that both ways of scaling it are the same."""
    made = np.zeros((side, side), np.uint8)
    made[2 * downscale : 6 * downscale, : 5 * downscale] = 255
    return made


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def drawn(step: int, shape: Any) -> Any:
    """Our noise of a step, as theirs."""
    return torch.from_numpy(noise(SEED, step, tuple(shape)[1:])[None])


@pytest.fixture
def same_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers begins with our noise, and draws nothing around the middle."""
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )
    for module in (img2img, inpaint):
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: drawn(0, shape))


async def ours(repository: Path, card: ModelCard, image: pb.RunGeneration) -> Pixels:
    """Drawn by the agent."""
    spec = image.generation.image
    async with an_inside(card, OnnxDevice(repository, card), PromptIds(repository, card)) as inside:
        inside.store.objects[PICTURE_KEY] = png(picture(spec.width))
        inside.store.objects[MASK_KEY] = png(mask(spec.width, card.latents.downscale))
        inside.commands.obey(pb.ConnectResponse(run=image))
        done = await inside.until("succeeded")
        file = inside.store.objects[done.results[0].object_key]
    return np.asarray(Image.open(io.BytesIO(file)))


def asked(card: ModelCard, side: int, sampler: str, strength: float, masked: bool) -> Any:
    run = pb.RunGeneration(epoch=1)
    run.attempt.generation_id, run.attempt.lease_token, run.attempt.device_id = "a", 1, "cpu-0"
    run.generation.id, run.generation.tenant, run.generation.model = "a", "local", card.name
    image = run.generation.image
    image.prompt, image.width, image.height, image.steps = PROMPT, side, side, STEPS
    image.guidance, image.seed, image.count, image.sampler = GUIDANCE, SEED, 1, sampler
    image.init_image.object_key, image.strength = PICTURE_KEY, strength
    if masked:
        image.mask_image.object_key = MASK_KEY
    return run


def theirs(pipeline: Any, side: int, strength: float, **more: Any) -> Pixels:
    """Drawn by diffusers."""
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        PROMPT,
        image=Image.fromarray(picture(side)),
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **more,
    ).images[0]
    return (made * 255).round().astype(np.uint8)


def psnr(one: Pixels, other: Pixels) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("masked", [False, True])
async def test_tiny_image_draws_what_diffusers_draws(
    same_chance: None, monkeypatch: pytest.MonkeyPatch, masked: bool, sampler: str, strength: float
) -> None:
    card = Catalog.read(ROOT / "triton_repo").cards["tiny-image"]
    parts = load_pipeline(ROOT / "checkpoints" / "tiny-image").components
    parts["scheduler"] = SCHEDULERS[sampler].from_config(parts["scheduler"].config)
    first = STEPS - int(STEPS * strength)
    steps = itertools.count(first + 1)
    monkeypatch.setattr(
        euler_ancestral, "randn_tensor", lambda shape, **_: drawn(next(steps), shape)
    )

    got = await ours(ROOT / "triton_repo", card, asked(card, 64, sampler, strength, masked))
    if not masked:
        pipeline = diffusers.StableDiffusionImg2ImgPipeline(**parts)
        assert psnr(got, theirs(pipeline, 64, strength)) >= 60
        return
    new = mask(64, card.latents.downscale)
    pipeline = diffusers.StableDiffusionInpaintPipeline(**parts)
    expected = theirs(pipeline, 64, strength, mask_image=Image.fromarray(new), height=64, width=64)
    assert psnr(got[new > 0], expected[new > 0]) >= 60
    np.testing.assert_array_equal(got[new == 0], picture(64)[new == 0])


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strength", [1.0, 0.6])
async def test_so_does_a_denoiser_that_was_trained_for_inpainting(
    same_chance: None, tmp_path: Path, strength: float
) -> None:
    """It is shown the mask and the picture with that part grey, and nothing is put back."""
    repository, card, _ = export(Case("sd-inpaint", ("ddim",)), tmp_path)
    assert card.latents.masking == "concat"
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(
        tmp_path / "checkpoint", torch_dtype=torch.float32, safety_checker=None
    )
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)

    got = await ours(repository, card, asked(card, 32, "ddim", strength, True))

    new = mask(32, card.latents.downscale)
    expected = theirs(pipeline, 32, strength, mask_image=Image.fromarray(new), height=32, width=32)
    assert psnr(got[new > 0], expected[new > 0]) >= 60
    np.testing.assert_array_equal(got[new == 0], picture(32)[new == 0])
