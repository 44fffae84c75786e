"""Pictures and captions that training may see: every scene whose combination is not held out."""

import numpy as np
import torch
from torch import Tensor

from exporters.tiny.scenes import Scene, all_scenes, is_held_out, render


def training_scenes() -> list[Scene]:
    """Six sevenths of all scenes, in the order of the grammar."""
    return [scene for scene in all_scenes() if not is_held_out(scene)]


def training_pictures(scenes: list[Scene], rng: np.random.Generator) -> Tensor:
    """One slightly shaken rendering of each scene: uint8 (N, 3, 64, 64)."""
    pixels = np.stack([render(scene, rng=rng) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def to_signal(pictures: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in -1..1, any shape."""
    return pictures.float() / 127.5 - 1.0
