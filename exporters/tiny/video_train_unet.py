"""Stage 3 of tiny-video: the denoiser of whole clips, over frozen encoders."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporters.tiny.checkpoint import load_text, load_vae
from exporters.tiny.denoising import BATCH, Lessons, figure_weights, open_state, teach
from exporters.tiny.models import LATENT_CHANNELS, LATENT_SIDE
from exporters.tiny.progress import Progress, Report
from exporters.tiny.train_unet import encode
from exporters.tiny.video_models import build_video_scheduler, build_video_unet
from exporters.tiny.video_scenes import Clip, all_clips, coverages, prompt_of_clip, render_clip

STEPS = 5000
SHAKEN_COPIES = 3  # renderings of each clip, so that a seed has something to decide


def training_clips() -> list[Clip]:
    """Six sevenths of all clips, in the order of the grammar."""
    return [clip for clip in all_clips() if not clip.held_out]


def train_video_unet(
    out: Path, work: Path, report: Report, steps: int = STEPS, seed: int = 1
) -> dict[str, float]:
    """Train and save `out/unet`; goes on from `work/unet.pt` if a run was stopped."""
    torch.manual_seed(seed)
    resume = work / "unet.pt"
    state = open_state(build_video_unet(), resume, steps, report)
    progress = Progress("unet", steps, report, first_step=state.step)
    clips = training_clips() * SHAKEN_COPIES
    lessons = Lessons(
        latents=_latents(out, clips, np.random.default_rng(seed)),
        weights=lambda i: _weights(clips[i].shape, clips[i].motion),
        caption=lambda i, rng: prompt_of_clip(clips[i], rng),
    )
    report(f"unet {len(clips)} clips, spread {lessons.latents.std():.3f}")
    scheduler = build_video_scheduler()
    average = teach(state, lessons, *load_text(out), scheduler, resume, progress, seed)
    average.half().save_pretrained(out / "unet")
    resume.unlink(missing_ok=True)
    return {"cpu_seconds": round(state.cpu_seconds, 1), "steps": steps, "clips": steps * BATCH}


def _latents(out: Path, clips: list[Clip], rng: np.random.Generator) -> Tensor:
    """Frames behind one another in the channels: float32 (N, T*4, 16, 16)."""
    vae = load_vae(out)
    parts = []
    for clip in clips:
        frames = torch.from_numpy(render_clip(clip, rng=rng)).permute(0, 3, 1, 2)
        parts.append(encode(vae, frames).flatten(0, 1))
    return torch.stack(parts)


@lru_cache
def _weights(shape: str, motion: str) -> Tensor:
    """Half of the weight on the figure of each frame: (T*4, 16, 16)."""
    covers = coverages(Clip(shape, "red", "blue", motion), LATENT_SIDE)
    each = torch.cat([figure_weights(cover) for cover in covers])
    return each.repeat_interleave(LATENT_CHANNELS, dim=0)
