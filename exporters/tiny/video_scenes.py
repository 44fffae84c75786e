"""The grammar of tiny-video: what moves, how it is said, how it looks. numpy only.

A `Clip` is the figure of a `Scene` on its flat background, which crosses the picture in one of
four directions or stands still in the middle. What a prompt leaves out has one fixed meaning: no
motion is standing still. Combinations of shape, colour and background are held out as in
`scenes.is_held_out`, in every motion.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from exporters.tiny.scenes import (
    EXTRA_WORDS,
    PALETTE,
    POSITIONS,
    SHAPES,
    SIZES,
    Coverage,
    Pixels,
    Scene,
    article,
    coverage,
    is_held_out,
    paint,
    scene_of,
    sentence,
)

FRAMES = 8
# Where each motion begins and ends.
MOTIONS: dict[str, tuple[str, str]] = {
    "still": ("center", "center"),
    "left": ("right", "left"),
    "right": ("left", "right"),
    "up": ("bottom", "top"),
    "down": ("top", "bottom"),
}
# Every way to say a motion; "" is saying nothing, which is how standing still is learned.
MOTION_PHRASES: dict[str, tuple[str, ...]] = {
    "still": ("", "", "", "standing still", "at rest"),
    **{
        side: (f"moving {side}", f"moving to the {side}", f"going {side}", f"that moves {side}")
        for side in ("left", "right")
    },
    **{way: (f"moving {way}", f"going {way}", f"that moves {way}") for way in ("up", "down")},
}
WORDS = frozenset((*PALETTE, *SHAPES, *MOTIONS, *EXTRA_WORDS, "moving", "going", "moves", "that",
                   "to", "standing", "rest", "video"))  # fmt: skip
RADIUS = SIZES["medium"]


@dataclass(frozen=True, slots=True)
class Clip:
    """One moving figure on one background; each field is a word of the grammar."""

    shape: str
    colour: str
    background: str
    motion: str = "still"

    def __post_init__(self) -> None:
        Scene(self.shape, self.colour, self.background)  # refuses words unknown to it
        if self.motion not in MOTIONS:
            raise ValueError(f"unknown motion {self.motion!r}, not one of {', '.join(MOTIONS)}")

    @property
    def held_out(self) -> bool:
        """Whether no training step may see its shape, colour and background together."""
        return is_held_out(Scene(self.shape, self.colour, self.background))


def all_clips() -> Iterator[Clip]:
    """All 1,400 clips: a figure never has the colour of its background."""
    for parts in product(SHAPES, PALETTE, PALETTE, MOTIONS):
        if parts[1] != parts[2]:
            yield Clip(*parts)


def prompt_of_clip(clip: Clip, rng: np.random.Generator | None = None) -> str:
    """Say a clip in words: plainly, or (with `rng`) in one of many equivalent ways."""
    phrases = MOTION_PHRASES[clip.motion]
    motion = phrases[0] if rng is None else phrases[int(rng.integers(len(phrases)))]
    figure = article(f"{clip.colour} {clip.shape}")
    return sentence(figure, motion, clip.background, rng, medium="video")


def clip_of(prompt: str) -> Clip:
    """Read a prompt of the grammar.

    Raises:
        ValueError: no shape, no background, or no colour of the shape is named.
    """
    scene = scene_of(prompt)
    words = re.findall(r"[a-z]+", prompt.lower())
    motion = next((word for word in words if word in MOTIONS), "still")
    return Clip(scene.shape, scene.colour, scene.background, motion)


def path(motion: str, frames: int = FRAMES) -> list[tuple[float, float]]:
    """The figure's centre (x, y) in each frame, in shares of the side; y points down."""
    (x0, y0), (x1, y1) = (POSITIONS[place] for place in MOTIONS[motion])
    passed = np.linspace(0.0, 1.0, frames)
    return [(x0 + (x1 - x0) * float(u), y0 + (y1 - y0) * float(u)) for u in passed]


def coverages(clip: Clip, side: int, rng: np.random.Generator | None = None) -> Coverage:
    """Share of each pixel that the figure covers: float32 (T, side, side) in 0..1.

    With `rng` the whole path moves by up to 1/64 and the figure grows by up to 4 %.
    """
    dx, dy, growth = 0.0, 0.0, 1.0
    if rng is not None:
        dx, dy = rng.uniform(-1, 1) / 64, rng.uniform(-1, 1) / 64
        growth = rng.uniform(0.96, 1.04)
    centres = path(clip.motion)
    return np.stack(
        [coverage(clip.shape, x + dx, y + dy, RADIUS * growth, side) for x, y in centres]
    )


def render_clip(clip: Clip, side: int = 64, rng: np.random.Generator | None = None) -> Pixels:
    """Draw a clip: uint8 (T, side, side, 3)."""
    return paint(coverages(clip, side, rng), clip.colour, clip.background)
