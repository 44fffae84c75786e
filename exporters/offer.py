"""What is offered of a checkpoint: words, limits and presets, chosen by people. Pure.

Everything else in a card is read from the checkpoint or measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atelier.spec import Limit


@dataclass(frozen=True)
class Offer:
    """The part of a card that no file and no measurement tells.

    Attributes:
        presets: steps of each preset, by its name.
    """

    description: str
    steps: int
    guidance: float
    max_guidance: float
    max_steps: int = 100
    max_count: int = 8
    frames_per_second: int = 16
    presets: Mapping[str, int] = field(default_factory=lambda: {"draft": 8, "fine": 40})

    def limits(
        self, shapes: Sequence[tuple[int, int]], multiple_of: int, frames: int = 0
    ) -> list[Limit]:
        """A limit for each numeric field of a spec.

        Args:
            shapes: widths and heights in pixels, the default first; what lies between is allowed.
            multiple_of: what the sides must be a multiple of, in pixels.
            frames: of a clip, which are as many as the graphs were exported for; 0 for a picture.
        """
        widths, heights = zip(*shapes, strict=True)
        pace = Limit("frames_per_second", 1, 60, self.frames_per_second, 1, "frames a second")
        return [
            Limit("width", min(widths), max(widths), widths[0], multiple_of, "pixels"),
            Limit("height", min(heights), max(heights), heights[0], multiple_of, "pixels"),
            Limit("steps", 1, self.max_steps, self.steps, 1, "steps"),
            Limit("guidance", 1, self.max_guidance, self.guidance),
            *(
                (Limit("frames", frames, frames, frames, 1, "frames"), pace)
                if frames
                else (Limit("count", 1, self.max_count, 1, 1, "pictures"),)
            ),
        ]


KNOWN = {
    "tiny-image": Offer(
        description=(
            "A really trained, really small diffusion model: one flat shape of a colour, size and"
            " position on a flat background, as the prompt says, in 64x64 pixels."
        ),
        steps=20,
        guidance=1.5,
        max_guidance=10,
    ),
    "tiny-video": Offer(
        description=(
            "A really trained, really small diffusion model: one flat shape of a colour that moves"
            " as the prompt says, in eight small pictures."
        ),
        steps=20,
        guidance=1.5,
        max_guidance=2,  # more overshoots: 97 of 100 clips come out right at 3, 73 at 5
        frames_per_second=8,
    ),
}
