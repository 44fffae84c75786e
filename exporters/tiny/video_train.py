"""Trains tiny-video: `python -m exporters.tiny.video_train --out checkpoints/tiny-video`.

The text encoder learns the words for motion, the autoencoder is tiny-image's as it is, and the
denoiser learns whole clips. Stages already in `training.json` are skipped; a stopped denoiser goes
on from the state in `--work`. Seeds are fixed; another machine's arithmetic may still give slightly
other weights.
"""

import argparse
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from exporters.tiny.checkpoint import load_vae, read_record, write_record
from exporters.tiny.dataset import to_signal
from exporters.tiny.progress import Report
from exporters.tiny.scenes import PALETTE, SHAPES
from exporters.tiny.train_text_encoder import Grammar, train_text_encoder
from exporters.tiny.video_checkpoint import save_random_video, save_video_index
from exporters.tiny.video_scenes import MOTIONS, WORDS, prompt_of_clip, render_clip
from exporters.tiny.video_train_unet import train_video_unet, training_clips


def train(out: Path, image: Path, work: Path, report: Report, *, seed: int = 1) -> None:
    """Run the stages that are missing from `out`, in the order in which they need each other."""
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Callable[[], dict[str, float]]] = {
        "text_encoder": lambda: train_text_encoder(out, report, clip_grammar(), seed=seed),
        "vae": lambda: adopt_vae(image, out),
        "unet": lambda: train_video_unet(out, work, report, seed=seed),
    }
    for name, run in stages.items():
        if name in read_record(out):
            report(f"{name} is finished")
            continue
        figures = run()
        write_record(out, name, figures)
        report(f"{name} {figures}")
    save_video_index(out)


def clip_grammar() -> Grammar:
    """That of the clips which training may see."""
    attributes = {
        "shape": list(SHAPES),
        "colour": list(PALETTE),
        "background": list(PALETTE),
        "motion": list(MOTIONS),
    }
    return Grammar(WORDS, attributes, training_clips(), prompt_of_clip)


def adopt_vae(image: Path, out: Path) -> dict[str, float]:
    """Take tiny-image's autoencoder, and measure how well it shows the frames of clips."""
    shutil.copytree(image / "vae", out / "vae", dirs_exist_ok=True)
    vae = load_vae(out)
    frames = np.concatenate([render_clip(clip) for clip in training_clips()[::37]])
    errors = []
    with torch.no_grad():
        for part in torch.from_numpy(frames).permute(0, 3, 1, 2).split(16):
            decoded = vae.decode(vae.encode(to_signal(part)).latent_dist.mean).sample
            errors.append((decoded.clamp(-1, 1) - to_signal(part)).square().mean((1, 2, 3)))
    decibels = 10 * math.log10(4.0 / torch.cat(errors).mean().item())
    return {"psnr_db": round(decibels, 2)}


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("checkpoints/tiny-video"))
    parser.add_argument(
        "--image",
        type=Path,
        default=Path("checkpoints/tiny-image"),
        help="whose autoencoder to use",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/tiny-video"), help="where a stopped run's state is"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--random", action="store_true", help="write random weights of the same form, and stop"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.random:
        save_random_video(arguments.out, arguments.seed)
        return
    train(
        arguments.out,
        arguments.image,
        arguments.work,
        lambda line: print(line, flush=True),
        seed=arguments.seed,
    )


if __name__ == "__main__":
    main()
