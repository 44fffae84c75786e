"""Measures obedience: `python -m exporters.tiny.video_obey --checkpoint checkpoints/tiny-video`.

As `obey`, for clips: half of the prompts name combinations of shape, colour and background that no
training step saw; every clip is made from the folder's fp16 weights by `TinyVideoPipeline` with a
fixed seed, and read by the checker. A clip that shows no figure on one smooth way is wrong in
everything.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console

from exporters.tiny.obey import Claim, Trial, claims_of, table_of
from exporters.tiny.video_checker import read_clip
from exporters.tiny.video_checkpoint import load_video_pipeline
from exporters.tiny.video_pipeline import TinyVideoPipeline
from exporters.tiny.video_scenes import Clip, all_clips, prompt_of_clip

GOAL = 0.9
ATTRIBUTES = {
    "background": "background colour",
    "colour": "shape colour",
    "shape": "kind of shape",
    "motion": "direction of motion",
}
BATCH = 10
SHEET_COLUMNS, SHEET_CLIPS = 2, 24


def choose(count: int, seed: int) -> list[tuple[str, Clip]]:
    """Prompts in every wording, every second one of a combination never trained."""
    rng = np.random.default_rng(seed)
    clips = list(all_clips())
    halves = [[clip for clip in clips if clip.held_out == held] for held in (False, True)]
    picked = [halves[i % 2][int(rng.integers(len(halves[i % 2])))] for i in range(count)]
    return [(prompt_of_clip(clip, rng), clip) for clip in picked]


def run(
    pipeline: TinyVideoPipeline, prompts: list[tuple[str, Clip]], steps: int, guidance: float
) -> Iterator[tuple[Trial, int]]:
    """Draw each prompt with its own number as the seed; also how many of its frames are right."""
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(start + index) for index in range(len(batch))]
        clips = pipeline(
            [prompt for prompt, _ in batch],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=seeds,
        ).frames
        for (prompt, asked), frames in zip(batch, clips, strict=True):
            reading = read_clip(frames)
            found = reading.clip if reading else None
            right = reading.frames_right(asked) if reading else 0
            yield Trial(prompt, asked, not asked.held_out, found, frames), right


def whole_claims(trials: list[Trial], frames_right: list[int]) -> list[Claim]:
    """Clips with every attribute right, and single frames with shape, colours and place right."""
    frames = len(trials[0].pixels)
    values = {
        "all of them at once": float(np.mean([trial.all_right for trial in trials])),
        "frames with shape, colours and place right": float(np.mean(frames_right)) / frames,
    }
    return [
        Claim(name, round(value, 4), "share", GOAL, value >= GOAL) for name, value in values.items()
    ]


def contact_sheet(trials: list[Trial]) -> Image.Image:
    """The first 24 clips as strips of frames under their prompts; a wrong one has a red frame."""
    shown = trials[:SHEET_CLIPS]
    frames, side = shown[0].pixels.shape[:2]
    width, height = frames * (side + 2) + 14, side + 26
    rows = -(-len(shown) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, rows * height), (90, 90, 90))
    pen = ImageDraw.Draw(sheet)
    for index, trial in enumerate(shown):
        x, y = index % SHEET_COLUMNS * width, index // SHEET_COLUMNS * height
        pen.text((x + 8, y + 4), trial.prompt, fill=(255, 255, 255))
        if not trial.all_right:
            sheet.paste((255, 0, 0), (x + 4, y + 16, x + width - 4, y + height - 2))
        for number, frame in enumerate(trial.pixels):
            sheet.paste(Image.fromarray(frame), (x + 8 + number * (side + 2), y + 20))
    return sheet


def main() -> None:
    """Read the command line, draw, measure, and write the figures and a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny-video"))
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/obedience-video.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    pipeline = load_video_pipeline(arguments.checkpoint)
    prompts = choose(arguments.prompts, arguments.seed)
    drawn = list(run(pipeline, prompts, arguments.steps, arguments.guidance))
    trials = [trial for trial, _ in drawn]
    whole = whole_claims(trials, [right for _, right in drawn])

    console = Console()
    console.print(table_of(trials, ATTRIBUTES))
    for claim in whole:
        console.print(f"{claim.name}: {100 * claim.value:.1f} %")
    for trial in trials:
        if not trial.all_right:
            console.print(f"{trial.prompt!r} came out as {trial.found}")
    result = {
        "benchmark": "obedience-video",
        "prompts": len(trials),
        "sampler": "DDIM",
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "seed": arguments.seed,
        "claims": [asdict(claim) for claim in claims_of(trials, ATTRIBUTES, GOAL) + whole],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    sheet = contact_sheet(trials).quantize(256)  # flat colours: a third of the bytes
    sheet.save(arguments.out.with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
