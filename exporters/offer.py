"""What is offered of a checkpoint: words, limits and presets, chosen by people. Pure.

Everything else in a card is read from the checkpoint or measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atelier.spec import Limit


@dataclass(frozen=True)
class Offer:
    """The part of a card that no file and no measurement tells.

    Attributes:
        sides: least and greatest side of a picture, in pixels; None is the size trained on alone.
        presets: steps of each preset, by its name.
    """

    description: str
    steps: int
    guidance: float
    max_guidance: float
    max_count: int = 8
    sides: tuple[int, int] | None = None
    presets: dict[str, int] = field(default_factory=lambda: {"draft": 8, "fine": 40})

    def limits(self, native_pixels: int, multiple_of: int) -> list[Limit]:
        """A limit for each numeric field of a spec.

        Args:
            native_pixels: the side trained on, which is also the default.
            multiple_of: what the sides must be a multiple of, in pixels.
        """
        least, most = self.sides or (native_pixels, native_pixels)
        return [
            Limit("width", least, most, native_pixels, multiple_of, "pixels"),
            Limit("height", least, most, native_pixels, multiple_of, "pixels"),
            Limit("steps", 1, 100, self.steps, 1, "steps"),
            Limit("guidance", 1, self.max_guidance, self.guidance),
            Limit("count", 1, self.max_count, 1, 1, "pictures"),
        ]


_OFFERS = {
    "tiny-image": Offer(
        description=(
            "A really trained, really small diffusion model: one flat shape of a colour, size and"
            " position on a flat background, as the prompt says, in 64x64 pixels."
        ),
        steps=20,
        guidance=1.5,
        max_guidance=10,
    ),
}


def offer_for(name: str, native_pixels: int) -> Offer:
    """The offer of a known model; for others, what Stable Diffusion's users expect."""
    known = _OFFERS.get(name)
    return known or Offer(
        description=f"{name}: text to image, trained on {native_pixels} pixels a side.",
        steps=30,
        guidance=7.5,
        max_guidance=20,
    )
