"""Requests of every kind that tiny-image and tiny-video take, drawn from a seed, and a judge."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.v1 import generation_pb2 as pb
from exporters.tiny.checker import measure
from exporters.tiny.scenes import PALETTE, Scene, all_scenes, prompt_of, render
from exporters.tiny.video_checker import read_clip
from exporters.tiny.video_scenes import Clip, all_clips, prompt_of_clip, render_clip

Pixels = NDArray[np.uint8]

KINDS = {"text": 50, "several": 10, "picture": 14, "mask": 14, "clip": 8, "first frame": 4}
SAMPLERS = ("ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras")
STEPS, FEW_STEPS = (4, 50), (4, 8)
SIDE = 64


@dataclass(frozen=True)
class Wish:
    """A request, and what its results should show."""

    kind: str
    request: pb.CreateGenerationRequest
    asked: Scene | Clip

    def shown(self, seen: Pixels) -> bool:
        """Whether a result shows what was asked, as far as the kind lets it be judged."""
        if isinstance(self.asked, Clip):
            reading = read_clip(seen)
            return reading is not None and reading.clip == self.asked
        found = measure(seen)
        parts = ("shape", "colour", "background")
        return found is not None and all(
            getattr(found, part) == getattr(self.asked, part) for part in parts
        )


def wishes(count: int, seed: int, steps: tuple[int, int]) -> Iterator[Wish]:
    """`count` of them, kinds by their shares; `steps`: the fewest and the most."""
    rng = Random(seed)
    scenes, clips = list(all_scenes()), list(all_clips())
    for _ in range(count):
        [kind] = rng.choices(list(KINDS), list(KINDS.values()))
        numbers: dict[str, Any] = {
            "steps": rng.randint(*steps), "seed": rng.randrange(2**32),
            "guidance": rng.choice((1.0, 1.5, 2.0)), "sampler": rng.choice(SAMPLERS),
        }  # fmt: skip
        if kind in ("clip", "first frame"):
            yield _clip(kind, rng.choice(clips), numbers)
        else:
            yield _picture(kind, rng.choice(scenes), numbers, rng)


def _clip(kind: str, clip: Clip, numbers: dict[str, Any]) -> Wish:
    spec = pb.VideoSpec(prompt=prompt_of_clip(clip), **numbers)
    if kind == "first frame":
        spec.first_frame.data = _png(render_clip(clip)[0])
    return Wish(kind, pb.CreateGenerationRequest(model="tiny-video", video=spec), clip)


def _picture(kind: str, scene: Scene, numbers: dict[str, Any], rng: Random) -> Wish:
    spec = pb.ImageSpec(prompt=prompt_of(scene), **numbers)
    if kind == "several":
        spec.count = rng.randint(2, 4)
    if kind in ("picture", "mask"):
        # Another figure on the ground that is asked for; a mask lies over all of the figure.
        colours = [c for c in PALETTE if c not in (scene.background, scene.colour)]
        start = Scene("square", rng.choice(colours), scene.background, position=scene.position)
        given = render(start)
        spec.init_image.data = _png(given)
        if kind == "mask":
            away = (given != given[0, 0]).any(axis=-1)
            rows, columns = np.where(away.any(axis=1))[0], np.where(away.any(axis=0))[0]
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[max(0, rows[0] - 6) : rows[-1] + 7, max(0, columns[0] - 6) : columns[-1] + 7] = 255
            spec.mask_image.data = _png(mask)
        else:
            spec.strength = rng.choice((0.5, 0.8, 1.0))
            spec.steps = max(spec.steps, 8)
    return Wish(kind, pb.CreateGenerationRequest(model="tiny-image", image=spec), scene)


def pixels_of(result: pb.Result) -> Pixels:
    """uint8 (H, W, 3), or (T, H, W, 3) of a video."""
    if not result.frames:
        return np.asarray(Image.open(io.BytesIO(result.inline_data)).convert("RGB"))
    with av.open(io.BytesIO(result.inline_data), "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames).astype(np.uint8)


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
