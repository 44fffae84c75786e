"""Measures obedience: `python -m exporters.tiny.obey --checkpoint checkpoints/tiny-image`.

Half of the prompts name combinations of shape, colour and background that no training step saw.
Every picture is made by diffusers' own pipeline from the folder's fp16 weights, with a fixed seed,
and read by the checker; a claim is the share of prompts of which an attribute came out right.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.console import Console
from rich.table import Table

from exporters.tiny.checker import measure
from exporters.tiny.checkpoint import load_pipeline
from exporters.tiny.scenes import Pixels, Scene, all_scenes, is_held_out, prompt_of
from exporters.tiny.video_scenes import Clip

GOAL = 0.99
ATTRIBUTES = {
    "background": "background colour",
    "colour": "shape colour",
    "shape": "kind of shape",
    "position": "position",
    "size": "size",
}
BATCH = 10
SHEET_COLUMNS, SHEET_PICTURES = 8, 40


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt, what it asks, and what was drawn: `found` is None if nothing was.

    `seen` is whether training saw the combination; `pixels` is a picture's or a clip's.
    """

    prompt: str
    asked: Scene | Clip
    seen: bool
    found: Scene | Clip | None
    pixels: Pixels

    def right(self, attribute: str) -> bool:
        """Whether one attribute is as the prompt asks."""
        return self.found is not None and (
            getattr(self.found, attribute) == getattr(self.asked, attribute)
        )

    @property
    def all_right(self) -> bool:
        return self.found == self.asked


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure, its goal, and whether it is reached."""

    name: str
    value: float
    unit: str
    goal: float
    holds: bool


def choose(count: int, seed: int) -> list[tuple[str, Scene]]:
    """Prompts in every wording, every second one of a combination never trained."""
    rng = np.random.default_rng(seed)
    scenes = list(all_scenes())
    halves = [[s for s in scenes if is_held_out(s) == held] for held in (False, True)]
    picked = [halves[i % 2][int(rng.integers(len(halves[i % 2])))] for i in range(count)]
    return [(prompt_of(scene, rng), scene) for scene in picked]


def run(
    pipeline: StableDiffusionPipeline, prompts: list[tuple[str, Scene]], steps: int, guidance: float
) -> Iterator[Trial]:
    """Draw each prompt with its own number as the seed."""
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(start + index) for index in range(len(batch))]
        pictures = pipeline(
            [prompt for prompt, _ in batch],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=seeds,
            output_type="np",
        ).images
        for (prompt, scene), picture in zip(batch, pictures, strict=True):
            pixels = np.rint(picture * 255).astype(np.uint8)
            yield Trial(prompt, scene, not is_held_out(scene), measure(pixels), pixels)


def claims_of(trials: list[Trial], attributes: dict[str, str], goal: float) -> list[Claim]:
    """Share of right answers for each attribute, over all, seen and never-seen combinations."""
    groups = {
        "": trials,
        ", combinations trained": [t for t in trials if t.seen],
        ", combinations never trained": [t for t in trials if not t.seen],
    }
    claims = []
    for attribute, name in attributes.items():
        for suffix, group in groups.items():
            value = float(np.mean([t.right(attribute) for t in group]))
            claims.append(Claim(name + suffix, round(value, 4), "share", goal, value >= goal))
    return claims


def contact_sheet(trials: list[Trial]) -> Image.Image:
    """The first 40 pictures, 8 a row; a wrong one has a red frame."""
    cell = trials[0].pixels.shape[0] + 8
    shown = trials[:SHEET_PICTURES]
    rows = -(-len(shown) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * cell, rows * cell), (128, 128, 128))
    for index, trial in enumerate(shown):
        x, y = index % SHEET_COLUMNS * cell, index // SHEET_COLUMNS * cell
        if not trial.all_right:
            sheet.paste((255, 0, 0), (x, y, x + cell, y + cell))
        sheet.paste(Image.fromarray(trial.pixels), (x + 4, y + 4))
    return sheet


def table_of(trials: list[Trial], attributes: dict[str, str]) -> Table:
    """Right answers in hundredths, by attribute."""
    table = Table("attribute", "trained %", "never trained %", "all %")
    rights = {name: [t.right(key) for t in trials] for key, name in attributes.items()}
    rights["all of them"] = [t.all_right for t in trials]
    seen = np.array([t.seen for t in trials])
    for name, right in rights.items():
        hits = 100 * np.array(right, dtype=float)
        table.add_row(name, *(f"{hits[group].mean():.1f}" for group in (seen, ~seen, seen | ~seen)))
    return table


def main() -> None:
    """Read the command line, draw, measure, and write the figures and a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny-image"))
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/obedience.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    prompts = choose(arguments.prompts, arguments.seed)
    pipeline = load_pipeline(arguments.checkpoint)
    trials = list(run(pipeline, prompts, arguments.steps, arguments.guidance))

    console = Console()
    console.print(table_of(trials, ATTRIBUTES))
    for trial in trials:
        if not trial.all_right:
            console.print(f"{trial.prompt!r} came out as {trial.found}")
    result = {
        "benchmark": "obedience",
        "prompts": len(trials),
        "sampler": "DDIM",
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "seed": arguments.seed,
        "claims": [asdict(claim) for claim in claims_of(trials, ATTRIBUTES, GOAL)],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    contact_sheet(trials).save(arguments.out.with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
