"""What tiny-image and tiny-video make of given pictures: the figures of docs/given-pictures.md.

`python -m benchmarks.bench_given_pictures` writes benchmarks/results/given-pictures.json. The
graphs are the served ones and the arithmetic is the agent's (`agent.start`); no services. Judged by
what reads pictures and clips in `exporters.tiny`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.sampler import Floats, plan
from agent.start import NEW, Given, fresh_noise, made_anew
from benchmarks.chain import Chain, onnx_path
from exporters.measure import open_session
from exporters.tiny.checker import measure
from exporters.tiny.scenes import PALETTE, SHAPES, Scene, coverage, paint, prompt_of, render
from exporters.tiny.video_checker import read_clip
from exporters.tiny.video_obey import choose
from exporters.tiny.video_scenes import RADIUS, Clip, path

REPOSITORY = Path("triton_repo")
RESULT = Path("benchmarks/results/given-pictures.json")
STEPS, GUIDANCE, SIDE, BATCH = 20, 1.5, 64, 8
STRENGTHS = (0.05, 0.1, 0.3, 0.5, 0.6, 0.8, 1.0)
PLACES = ("left", "right", "top", "bottom")
# Masks at odd pixels around each place: top, bottom, left, right, before they are shaken.
BOXES = {"left": (14, 50, 2, 36), "right": (14, 50, 28, 62),
         "top": (2, 36, 14, 50), "bottom": (28, 62, 14, 50)}  # fmt: skip
PAIRS, MASKS, CLIPS = 40, 48, 60
OFFSETS = (1, 4)  # pixels

Pixels = NDArray[np.uint8]
Mask = NDArray[Any]


def squares(mask: Floats) -> NDArray[np.float32]:
    return mask.reshape(1, SIDE // 4, 4, SIDE // 4, 4)


# How a mask's pixels become its latents'; the first is the agent's.
WAYS: dict[str, Callable[[Floats], Mask]] = {
    "any pixel": lambda mask: made_anew(mask, 4),
    "one pixel": lambda mask: mask[None, ::4, ::4] >= NEW,
    "all pixels": lambda mask: (squares(mask) >= NEW).all(axis=(2, 4)),
    "mixed by area": lambda mask: squares(mask).mean(axis=(2, 4)),
}


class Studio(Chain):
    """A chain that is given pictures."""

    def __init__(self, card_file: str) -> None:
        super().__init__(REPOSITORY, card_file)
        self.vae_encoder = open_session(onnx_path(REPOSITORY, self.card.components.vae_encoder))

    def draw_from(
        self,
        prompts: Sequence[str],
        given: Sequence[Pixels],
        news: Sequence[Mask | None],
        *,
        strength: float = 1.0,
    ) -> Pixels:
        """What is drawn: uint8 (n, [T,] H, W, 3).

        Args:
            given: pictures, or still clips, as the encoder takes them.
            news: of each the latents made anew, bool, or by shares; None: all, from the picture.
        """
        parts = [
            self._draw_from(
                prompts[i : i + BATCH], given[i : i + BATCH], news[i : i + BATCH], i, strength
            )
            for i in range(0, len(prompts), BATCH)
        ]
        return np.concatenate(parts)

    def _draw_from(
        self,
        prompts: Sequence[str],
        given: Sequence[Pixels],
        news: Sequence[Mask | None],
        seed: int,
        strength: float,
    ) -> Pixels:
        rows, kept = len(prompts), news[0] is not None
        way = plan(self.card.schedule, "ddim", STEPS, STEPS - int(STEPS * strength))
        pictures: Floats = self.vae_encoder.run(None, {"images": np.stack(given)})[0]
        fresh = fresh_noise(range(seed, seed + rows), self.card.latents.shape(SIDE, SIDE))
        begun = [
            Given(picture, np.ones(1, np.bool_) if kept else None).begin(way, noise[None])
            for picture, noise in zip(pictures, fresh, strict=True)
        ]
        latents, denoised = np.concatenate(begun), np.zeros_like(fresh)
        share = np.stack([np.float32(new) for new in news]) if kept else np.float32(1)
        text = np.stack([self._embed([""] * rows), self._embed(prompts)], axis=1)
        for step in range(way.first, way.steps):
            feed = {
                "latents": latents,
                "denoised_prev": denoised,
                "timestep": np.full((rows, 1), way.timesteps[step], np.float32),
                "text_embeddings": text,
                "guidance": np.full((rows, 1), GUIDANCE, np.float32),
                "coefficients": np.tile(way.coefficients[step], (rows, 1)),
            }
            latents, denoised = self.denoiser.run(None, feed)
            alpha, sigma = way.levels[step + 1]
            latents = share * latents + (1 - share) * (alpha * pictures + sigma * fresh)
        drawn: Pixels = self.vae_decoder.run(None, {"latents": latents})[0]
        return drawn


def psnr(one: Pixels, other: Pixels) -> float:
    error = np.mean((one.astype(float) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def shows(pixels: Pixels, scene: Scene) -> bool:
    seen = measure(pixels)
    parts = ("shape", "colour", "background")
    return seen is not None and all(getattr(seen, p) == getattr(scene, p) for p in parts)


def strengths(studio: Studio) -> list[dict[str, Any]]:
    """Pairs of a picture and a prompt that differ in figure, colours and place."""
    rng, pairs = np.random.default_rng(4), []
    for i in range(PAIRS):
        ground, colour, other_ground, other = rng.choice(list(PALETTE), 4, replace=False)
        shape, other_shape = rng.choice(list(SHAPES), 2, replace=False)
        place, other_place = PLACES[i % 4], PLACES[(i + 2) % 4]
        pairs.append(
            (
                Scene(shape, colour, ground, place),
                Scene(other_shape, other, other_ground, other_place),
            )
        )
    pictures, prompts = [render(had) for had, _ in pairs], [prompt_of(want) for _, want in pairs]
    told = []
    for strength in STRENGTHS:
        drawn = studio.draw_from(prompts, pictures, [None] * PAIRS, strength=strength)
        told.append(
            {
                "strength": strength,
                "median_psnr": round(float(np.median(list(map(psnr, drawn, pictures)))), 1),
                "shows_the_picture": sum(map(shows, drawn, (had for had, _ in pairs))),
                "shows_the_prompt": sum(map(shows, drawn, (want for _, want in pairs))),
                "of": PAIRS,
            }
        )
    return told


def edges(studio: Studio) -> list[dict[str, Any]]:
    """Across the masks' edges, in levels of 255: the ground is the same inside and outside."""
    rng = np.random.default_rng(2)
    pictures, masks, wanted = [], [], []
    for i in range(MASKS):
        ground, colour, other = rng.choice(list(PALETTE), 3, replace=False)
        shape, other_shape = rng.choice(list(SHAPES), 2)
        place = PLACES[i % 4]
        pictures.append(render(Scene(shape, colour, ground, place)))
        wanted.append(Scene(other_shape, other, ground, place))
        top, bottom, left, right = BOXES[place] + rng.integers(-2, 2, 4)
        mask = np.zeros((SIDE, SIDE), np.float32)
        mask[top:bottom, max(0, left) : right] = 1
        masks.append(mask)
    told = []
    for name, way in WAYS.items():
        prompts = [prompt_of(scene) for scene in wanted]
        drawn = studio.draw_from(prompts, pictures, [way(mask) for mask in masks])
        steps: list[float] = []
        right_ones = 0
        for made, picture, mask, scene in zip(drawn, pictures, masks, wanted, strict=True):
            pasted = np.where(mask[..., None] > 0, made, picture)
            right_ones += shows(pasted, scene)
            for axis in (0, 1):
                edge = np.diff(mask, axis=axis) != 0
                steps += list(np.abs(np.diff(pasted.astype(float), axis=axis)).mean(-1)[edge])
        told.append(
            {
                "freed": name,
                "edge_mean": round(float(np.mean(steps)), 2),
                "edge_p90": round(float(np.quantile(steps, 0.9)), 2),
                "shows_the_prompt": right_ones,
                "of": MASKS,
            }
        )
    return told


def beginning(clip: Clip, dx: float, dy: float) -> Pixels:
    """A clip's first frame, with the figure elsewhere by shares of the side."""
    x, y = path(clip.motion)[0]
    return paint(coverage(clip.shape, x + dx, y + dy, RADIUS, SIDE), clip.colour, clip.background)


def first_frames(studio: Studio) -> list[dict[str, Any]]:
    """Clips whose picture has the figure a few pixels from where clips begin."""
    pairs, rng, told = choose(CLIPS, 3), np.random.default_rng(7), []
    new = np.ones((studio.card.latents.channels, 1, 1), np.bool_)
    frames = studio.card.latents.output_frames
    new[: len(new) // frames] = False
    for most in OFFSETS:
        offsets = rng.uniform(-1, 1, (CLIPS, 2)) * most / SIDE
        pictures = [
            beginning(clip, *offset) for (_, clip), offset in zip(pairs, offsets, strict=True)
        ]
        stills = [np.stack([picture] * frames) for picture in pictures]
        clips = studio.draw_from([prompt for prompt, _ in pairs], stills, [new] * CLIPS)
        seen = [(read_clip(clip), asked) for clip, (_, asked) in zip(clips, pairs, strict=True)]
        left = [
            float((np.array((r.figures[1].x, r.figures[1].y)) - path(clip.motion)[1]) @ offset)
            / float(offset @ offset)
            for (r, clip), offset in zip(seen, offsets, strict=True)
            if r and np.hypot(*offset) * SIDE > 0.3
        ]
        quality = [psnr(clip[0], picture) for clip, picture in zip(clips, pictures, strict=True)]
        told.append(
            {
                "offset_pixels": most,
                "first_frame_least_psnr": round(min(quality), 1),
                "first_frame_median_psnr": round(float(np.median(quality)), 1),
                "obeys": sum(r is not None and r.clip == c for r, c in seen),
                "offset_left_in_the_second_frame": round(float(np.median(left)), 2),
                "of": CLIPS,
            }
        )
    return told


def main() -> None:
    image, video = Studio("tiny_image.toml"), Studio("tiny_video.toml")
    told = {
        "benchmark": "given-pictures",
        "steps": STEPS,
        "sampler": "ddim",
        "strengths": strengths(image),
        "edges": edges(image),
        "first_frames": first_frames(video),
    }
    RESULT.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
