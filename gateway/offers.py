"""What a model takes and gives beside its numbers, by its card. Pure."""

from __future__ import annotations

from atelier.catalog import ModelCard
from atelier.spec import Limit, least_strength

DEFAULT_STRENGTH = 0.8


def takes_images(card: ModelCard) -> bool:
    """Whether a picture can be the start: something must bring it to latents."""
    return card.kind == "image" and bool(card.components.vae_encoder)


def takes_first_frame(card: ModelCard) -> bool:
    """Whether a video can begin with a given picture."""
    return card.kind == "video" and card.latents.first_frame


def has_previews(card: ModelCard) -> bool:
    """Whether latents can be shown before they are decoded; not where that might show what a
    safety checker withholds."""
    return card.preview is not None and card.safety is None


def has_safety_checker(card: ModelCard) -> bool:
    """Whether something looks at results, and may withhold them."""
    return card.safety is not None


def strength_limit(card: ModelCard) -> Limit:
    """Of a model that takes images; the least is what leaves one of the most steps."""
    most_steps = int(card.limits["steps"].maximum)
    return Limit("strength", least_strength(most_steps), 1.0, DEFAULT_STRENGTH)
