"""The grammar of the tiny model: what can be asked, how it is said, how it looks. numpy only.

A `Scene` is one flat figure on one flat background: 5 kinds of shape, 8 colours, 5 positions and
3 sizes. It can be told as a prompt (`prompt_of`), read back from one (`scene_of`), and drawn
(`render`). A figure is drawn from its signed distance, so that a pixel on the edge holds the share
of it that is covered: at 64 pixels an edge without that would carry most of the learning's noise.

What a prompt leaves out has one fixed meaning: no position is the centre, no size is medium.

Combinations of shape, colour and background for which `is_held_out` is true are never shown to any
part of the model while it learns; that it draws them all the same is the measure of whether it
understands its words or remembers its pictures.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "green": (35, 165, 70),
    "blue": (35, 75, 220),
    "yellow": (250, 220, 45),
    "purple": (140, 50, 190),
    "orange": (250, 130, 25),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
# Centre of the figure as (x, y), and radius, both in shares of the picture's side.
POSITIONS: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "left": (0.28, 0.5),
    "right": (0.72, 0.5),
    "top": (0.5, 0.28),
    "bottom": (0.5, 0.72),
}
SIZES: dict[str, float] = {"small": 0.14, "medium": 0.19, "large": 0.25}

# Every way to say a position or a size; "" is saying nothing, which is how defaults are learned.
POSITION_PHRASES: dict[str, tuple[str, ...]] = {
    "center": ("", "", "", "in the center", "in the middle", "at the center"),
    **{
        side: (f"at the {side}", f"on the {side}", f"on the {side} side", f"in the {side}")
        for side in ("left", "right")
    },
    **{
        edge: (f"at the {edge}", f"near the {edge}", f"in the {edge}") for edge in ("top", "bottom")
    },
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little"),
    "medium": ("", "", "", "medium"),
    "large": ("large", "big"),
}
_SYNONYMS = {"middle": "center", "centre": "center", "little": "small", "big": "large"}
EXTRA_WORDS = ("a", "an", "the", "on", "in", "at", "near", "with", "of", "over", "side", "picture",
               "background", "middle", "little", "big", ",", ".")  # fmt: skip

Pixels = NDArray[np.uint8]
Coverage = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scene:
    """One figure on one background; each field is a word of the grammar."""

    shape: str
    colour: str
    background: str
    position: str = "center"
    size: str = "medium"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}")
        if self.colour not in PALETTE or self.background not in PALETTE:
            raise ValueError(f"unknown colour in {self.colour!r} on {self.background!r}")
        if self.position not in POSITIONS or self.size not in SIZES:
            raise ValueError(f"unknown place or size: {self.position!r}, {self.size!r}")


def all_scenes() -> Iterator[Scene]:
    """All 4,200 scenes: a figure never has the colour of its background."""
    for parts in product(SHAPES, PALETTE, PALETTE, POSITIONS, SIZES):
        if parts[1] != parts[2]:
            yield Scene(*parts)


def is_held_out(scene: Scene) -> bool:
    """True for the seventh of all (shape, colour, background) that no training step may see."""
    colours = list(PALETTE)
    shape, colour = SHAPES.index(scene.shape), colours.index(scene.colour)
    return (shape + 2 * colour + 3 * colours.index(scene.background)) % 7 == 3


def prompt_of(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """Say a scene in words: plainly, or (with `rng`) in one of many equivalent ways."""

    def choose(options: tuple[str, ...]) -> str:
        return options[0] if rng is None else options[int(rng.integers(len(options)))]

    figure = article(_join(choose(SIZE_WORDS[scene.size]), scene.colour, scene.shape))
    return sentence(figure, choose(POSITION_PHRASES[scene.position]), scene.background, rng)


def sentence(
    figure: str,
    where: str,
    background: str,
    rng: np.random.Generator | None = None,
    medium: str = "picture",
) -> str:
    """Put a figure, its place or motion (may be "") and a background in some order of words."""
    ground = f"{article(background)} background"
    order = 0 if rng is None else int(rng.integers(10))
    if order <= 4:
        return _join(figure, where, "on", ground)
    if order == 5:
        return _join(figure, "on", ground, where)
    if order == 6:
        return _join(figure, where, "with", ground)
    if order == 7:
        return _join(f"a {medium} of", figure, where, "over", ground)
    if order == 8:
        return _join("on", f"{ground},", figure, where)
    return _join(f"{_join(figure, where)},", background, "background")


def scene_of(prompt: str) -> Scene:
    """Read a prompt of the grammar.

    Raises:
        ValueError: no shape, no background, or no colour of the shape is named.
    """
    words = [_SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+", prompt.lower())]
    pairs = list(pairwise(words))
    grounds = [first for first, second in pairs if first in PALETTE and second == "background"]
    figures = [(first, second) for first, second in pairs if first in PALETTE and second in SHAPES]
    if not grounds or not figures:
        raise ValueError(f"a prompt names '<colour> <shape>' and '<colour> background': {prompt!r}")
    return Scene(
        shape=figures[0][1],
        colour=figures[0][0],
        background=grounds[0],
        position=next((word for word in words if word in POSITIONS), "center"),
        size=next((word for word in words if word in SIZES), "medium"),
    )


def coverage(shape: str, x: float, y: float, radius: float, side: int) -> Coverage:
    """Share of each pixel covered by a figure: float32 (side, side) in 0..1.

    `x`, `y` and `radius` are shares of the side; `side` is in pixels.
    """
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    px, py = (axis[None, :] - x) / radius, (axis[:, None] - y) / radius
    distance = _signed_distance(shape, px, py) * (radius * side)
    return np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)


def paint(cover: Coverage, colour: str, background: str) -> Pixels:
    """Lay one colour over another: uint8 (H, W, 3)."""
    front, back = (np.array(PALETTE[name], dtype=np.float32) for name in (colour, background))
    mixed = back + cover[..., None] * (front - back)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def render(scene: Scene, side: int = 64, rng: np.random.Generator | None = None) -> Pixels:
    """Draw a scene: uint8 (side, side, 3). With `rng` it moves by up to 1/64 and grows by 4 %."""
    (x, y), radius = POSITIONS[scene.position], SIZES[scene.size]
    if rng is not None:
        x, y = x + rng.uniform(-1, 1) / 64, y + rng.uniform(-1, 1) / 64
        radius *= rng.uniform(0.96, 1.04)
    return paint(coverage(scene.shape, x, y, radius, side), scene.colour, scene.background)


def _signed_distance(shape: str, x: Coverage, y: Coverage) -> Coverage:
    """Distance to the outline of a figure of radius 1 around 0, negative inside; y points down.

    Square, cross and triangle use the largest of the distances to their sides, which is exact
    inside and along the sides and short only beyond the corners.
    """
    ax, ay = np.abs(x), np.abs(y)
    if shape == "circle":
        return np.asarray(np.hypot(x, y) - 1)
    if shape == "ring":
        return np.asarray(np.abs(np.hypot(x, y) - 0.76) - 0.24)
    if shape == "square":
        return np.asarray(np.maximum(ax, ay) - 0.86)
    if shape == "cross":
        bars = np.maximum(ax - 1, ay - 0.3), np.maximum(ax - 0.3, ay - 1)
        return np.asarray(np.minimum(*bars))
    # An upright isosceles triangle whose bounding box is centred: apex (0, -1), base y = 0.9.
    slope = np.hypot(1.9, 1.08)
    return np.asarray(np.maximum(y - 0.9, (1.9 * ax - 1.08 * (y + 1)) / slope))


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
