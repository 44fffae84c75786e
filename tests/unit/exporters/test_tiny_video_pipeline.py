"""tiny-video's folder opens as one pipeline, whose clips do not depend on their neighbours."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from exporters.tiny.video_checkpoint import load_video_pipeline, save_random_video
from exporters.tiny.video_pipeline import TinyVideoPipeline
from exporters.tiny.video_scenes import FRAMES

PROMPTS = ["a red circle moving left on a blue background", "a green ring on a white background"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny-video")
    save_random_video(out)
    return out


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> TinyVideoPipeline:
    torch.set_num_threads(1)
    return load_video_pipeline(folder)


def test_clips_are_frames_of_levels(pipeline: TinyVideoPipeline) -> None:
    frames = pipeline(PROMPTS, num_inference_steps=2).frames
    assert frames.shape == (2, FRAMES, 64, 64, 3)
    assert frames.dtype == np.uint8


def test_a_clip_is_that_of_its_own_prompt_and_seed(pipeline: TinyVideoPipeline) -> None:
    def draw(prompts: list[str], seeds: list[int]) -> np.ndarray:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        options = {"num_inference_steps": 2, "output_type": "latent"}
        return pipeline(prompts, generator=generators, **options).frames

    both, alone = draw(PROMPTS, [1, 2]), draw(PROMPTS[1:], [2])
    np.testing.assert_allclose(both[1:], alone, atol=1e-4)
    assert np.abs(draw(PROMPTS[1:], [3]) - alone).max() > 0.1


def test_frames_lie_behind_one_another_in_the_channels(pipeline: TinyVideoPipeline) -> None:
    latents = torch.randn(1, FRAMES * 4, 16, 16, generator=torch.Generator().manual_seed(0))
    frames = pipeline.decode(latents)
    swapped = torch.cat([latents[:, 4:8], latents[:, :4], latents[:, 8:]], dim=1)
    np.testing.assert_array_equal(pipeline.decode(swapped)[0, [1, 0]], frames[0, :2])


def test_from_pretrained_opens_the_same_pipeline(folder: Path, pipeline: TinyVideoPipeline) -> None:
    opened = TinyVideoPipeline.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, low_cpu_mem_usage=False
    )
    assert (opened.config.frames, opened.config.frames_per_second) == (FRAMES, 8)
    opened.set_progress_bar_config(disable=True)
    latents = torch.randn(2, FRAMES * 4, 16, 16, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(
        opened(PROMPTS, latents=latents, num_inference_steps=2).frames,
        pipeline(PROMPTS, latents=latents, num_inference_steps=2).frames,
    )


def test_one_step_from_pure_noise_is_the_guided_prediction_itself(
    pipeline: TinyVideoPipeline,
) -> None:
    latents = torch.randn(1, FRAMES * 4, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 1, "guidance_scale": 3.0, "output_type": "latent"}
    drawn = pipeline(PROMPTS[:1], latents=latents, **options).frames
    states = [pipeline._encode([prompt]) for prompt in ("", PROMPTS[0])]
    with torch.no_grad():
        away, towards = (pipeline.unet(latents, 999, state).sample for state in states)
    expected = (away + 3 * (towards - away)).numpy()
    np.testing.assert_allclose(drawn, expected, atol=1e-4)


def test_denoiser_of_another_number_of_frames_is_refused(pipeline: TinyVideoPipeline) -> None:
    parts = {**pipeline.components, "frames": 7}
    with pytest.raises(ValueError, match="32 channels, but 7 frames of 4 channels need 28"):
        TinyVideoPipeline(**parts)


def test_parts_are_plain_classes_of_diffusers(folder: Path) -> None:
    assert UNet2DConditionModel.from_pretrained(folder / "unet").config.in_channels == FRAMES * 4
    assert AutoencoderKL.from_pretrained(folder / "vae").config.latent_channels == 4
    assert DDIMScheduler.from_pretrained(folder / "scheduler").config.rescale_betas_zero_snr
