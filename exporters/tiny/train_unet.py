"""Stage 3: the denoiser, over the frozen text encoder and the frozen autoencoder."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from exporters.tiny.checkpoint import load_text, load_vae
from exporters.tiny.dataset import to_signal, training_pictures, training_scenes
from exporters.tiny.denoising import BATCH, Lessons, figure_weights, open_state, teach
from exporters.tiny.models import LATENT_SIDE, build_scheduler, build_unet
from exporters.tiny.progress import Progress, Report
from exporters.tiny.scenes import POSITIONS, SIZES, Scene, coverage, prompt_of

STEPS = 4200
SHAKEN_COPIES = 3  # renderings of each scene, so that a seed has something to decide


def train_unet(
    out: Path, work: Path, report: Report, steps: int = STEPS, seed: int = 1
) -> dict[str, float]:
    """Train and save `out/unet`; goes on from `work/unet.pt` if a run was stopped."""
    torch.manual_seed(seed)
    resume = work / "unet.pt"
    state = open_state(build_unet(), resume, steps, report)
    progress = Progress("unet", steps, report, first_step=state.step)
    scenes = training_scenes() * SHAKEN_COPIES
    pictures = training_pictures(scenes, np.random.default_rng(seed))
    lessons = Lessons(
        latents=encode(load_vae(out), pictures),
        weights=lambda i: _weights(scenes[i]),
        caption=lambda i, rng: prompt_of(scenes[i], rng),
    )
    report(f"unet {len(scenes)} latents, spread {lessons.latents.std():.3f}")
    scheduler = build_scheduler()
    average = teach(state, lessons, *load_text(out), scheduler, resume, progress, seed)
    average.half().save_pretrained(out / "unet")
    resume.unlink(missing_ok=True)
    return {"cpu_seconds": round(state.cpu_seconds, 1), "steps": steps, "samples": steps * BATCH}


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Scaled means of the posterior: uint8 (N, 3, H, W) -> float32 (N, 4, H/4, W/4)."""
    parts = [vae.encode(to_signal(part)).latent_dist.mean for part in pictures.split(16)]
    return torch.cat(parts) * vae.config.scaling_factor


def _weights(scene: Scene) -> Tensor:
    x, y = POSITIONS[scene.position]
    return figure_weights(coverage(scene.shape, x, y, SIZES[scene.size], LATENT_SIDE))
