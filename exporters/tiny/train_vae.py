"""Stage 2: the autoencoder, on crops of 32 pixels and then on whole pictures.

Crops cost a quarter of a picture and hold most of its edges, which are all there is to learn; the
last sixth of the steps sees whole pictures, because group normalisation counts the background and
a crop has less of it.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from exporters.tiny.dataset import to_signal, training_pictures, training_scenes
from exporters.tiny.models import build_vae
from exporters.tiny.progress import Progress, Report

STEPS = 3600
WHOLE_PICTURE_STEPS = 600
CROP_SIDE = 32
LEARNING_RATE = 2e-3
KL_WEIGHT = 3e-5  # per latent value: keeps the latents near zero mean, costs no visible detail


def train_vae(out: Path, report: Report, steps: int = STEPS, seed: int = 1) -> dict[str, float]:
    """Train and save `out/vae`; returns the stage's figures."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pictures = training_pictures(training_scenes(), rng)
    vae = build_vae()
    optimiser = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.05
    )
    progress = Progress("vae", steps, report)
    for number in range(1, steps + 1):
        whole = number > steps - WHOLE_PICTURE_STEPS
        target = to_signal(_sample(pictures, rng, whole=whole))
        posterior = vae.encode(target).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = functional.mse_loss(decoded, target) + 0.2 * functional.l1_loss(decoded, target)
        loss = error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress.step(number, loss.item())

    vae.eval()
    some = to_signal(pictures[:: len(pictures) // 256])
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in some.split(16)])
        decoded = torch.cat([vae.decode(part).sample for part in latents.split(16)]).clamp(-1, 1)
    decibels = 10 * math.log10(4.0 / functional.mse_loss(decoded, some).item())
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 4))
    vae.half().save_pretrained(out / "vae")
    report(f"vae psnr {decibels:.1f} dB, latent means {latents.mean((0, 2, 3)).tolist()}")
    return {"cpu_seconds": round(progress.cpu_seconds, 1), "psnr_db": round(decibels, 2)}


def _sample(pictures: Tensor, rng: np.random.Generator, *, whole: bool) -> Tensor:
    """16 crops of 32 pixels or 6 whole pictures: uint8 (B, 3, side, side)."""
    if whole:
        return pictures[torch.from_numpy(rng.integers(len(pictures), size=6))]
    side, crops = pictures.shape[-1], []
    for index in rng.integers(len(pictures), size=16):
        y, x = rng.integers(side - CROP_SIDE + 1, size=2)
        crops.append(pictures[index, :, y : y + CROP_SIDE, x : x + CROP_SIDE])
    return torch.stack(crops)
