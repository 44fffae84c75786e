"""Model cards: what a model is, takes and costs. Pure: parsing of TOML text, no files opened
except by `Catalog.read`, which is given the folder.

A card (triton_repo/NAME.toml) is written by the exporters and read by everyone: the gateway takes
limits and presets from it, the scheduler memory and step times, the agent the Triton models and the
noise schedule.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier.card_parts import (
    Components,
    LatentFormat,
    LatentPreview,
    NoiseSchedule,
    Preset,
    Profile,
    Safety,
    TextFormat,
)
from atelier.spec import NUMERIC_FIELDS, Limit

__all__ = [
    "FLOW_SAMPLERS", "SAMPLERS", "Catalog", "Components", "LatentFormat", "LatentPreview",
    "ModelCard", "NoiseSchedule", "Preset", "Profile", "Safety", "TextFormat",
]  # fmt: skip

# What agents can compute. A flow-matching model takes only the last, others only the rest.
SAMPLERS = (
    "ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras", "lcm", "flow_euler",
)  # fmt: skip
FLOW_SAMPLERS = ("flow_euler",)


@dataclass(frozen=True)
class ModelCard:
    """All that is known of one model."""

    name: str
    description: str
    kind: str
    family: str
    version: str
    engine: str
    components: Components
    schedule: NoiseSchedule
    latents: LatentFormat
    text: TextFormat
    max_rows: int  # of one call of any of its Triton models
    limits: Mapping[str, Limit]
    samplers: tuple[str, ...]
    default_sampler: str
    presets: Mapping[str, Preset]
    resident_bytes: int  # all of it: weights of every component, and what else stays
    load_seconds: float
    profiles: Mapping[str, Profile]  # by shape; never empty
    # Triton model -> bytes of its weights. Cards that name the same Triton model share one copy of
    # it on a device; a model that is left out here shares nothing.
    weights: Mapping[str, int] = field(default_factory=dict)
    # The denoiser again, cut for a gang: Triton models that make one step when they are called in
    # this order, each fed by name with what came before -> bytes of its weights.
    parts: Mapping[str, int] = field(default_factory=dict)
    preview: LatentPreview | None = None  # None in cards written before there were previews

    @property
    def safety(self) -> Safety | None:
        """What looks at the pictures before they are published; None: nothing does."""
        return self.components.safety

    @classmethod
    def parse(cls, text: str) -> ModelCard:
        """Read a card.

        Raises:
            ValueError: it is not TOML, or a field is missing or out of place.
        """
        try:
            data = tomllib.loads(text)
            return _card(data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"model card: missing or misplaced {error}") from error

    def profile(self, shape: str) -> Profile:
        """The profile of `shape`; of the largest measured one where that shape was not."""
        if shape in self.profiles:
            return self.profiles[shape]
        return max(self.profiles.values(), key=lambda p: p.activation_bytes_per_row)


def _card(data: dict[str, Any]) -> ModelCard:
    limits = {
        name: Limit(
            field=name,
            minimum=limit["minimum"],
            maximum=limit["maximum"],
            default=limit["default"],
            multiple_of=limit.get("multiple_of", 0),
            unit=limit.get("unit", ""),
        )
        for name, limit in data["limits"].items()
    }
    if data["kind"] not in NUMERIC_FIELDS:
        raise ValueError(f"model card: kind is {data['kind']!r}, not image or video")
    if missing := [name for name in NUMERIC_FIELDS[data["kind"]] if name not in limits]:
        raise ValueError(f"model card: no limits for {', '.join(missing)}")
    presets = {
        name: Preset(
            name, {k: v for k, v in values.items() if k != "sampler"}, values.get("sampler", "")
        )
        for name, values in data.get("presets", {}).items()
    }
    profiles = {
        shape: Profile(
            activation_bytes_per_row=p["activation_bytes_per_row"],
            batch_cap=p["batch_cap"],
            step_seconds=tuple((int(rows), float(s)) for rows, s in p["step_seconds"]),
        )
        for shape, p in data["profiles"].items()
    }
    if not profiles or not all(profile.step_seconds for profile in profiles.values()):
        raise ValueError("model card: no measured profiles")
    if unknown := sorted(set(data["samplers"]) - set(SAMPLERS)):
        raise ValueError(f"model card: no such samplers: {', '.join(unknown)}")
    components = Components(**data["components"], safety=_safety(data))
    latents = LatentFormat(**data["latents"])
    if latents.masking not in ("", "concat"):
        raise ValueError(f"model card: no such masking: {latents.masking}; export it again")
    if latents.first_frame and (latents.frames or not latents.output_frames):
        raise ValueError("model card: first_frame is for clips whose frames lie in the channels")
    return ModelCard(
        name=data["name"],
        description=data["description"],
        kind=data["kind"],
        family=data["family"],
        version=data["version"],
        engine=data["engine"],
        components=components,
        schedule=NoiseSchedule(**data["schedule"]),
        latents=latents,
        text=TextFormat(**data["text"]),
        max_rows=data["max_rows"],
        limits=limits,
        samplers=tuple(data["samplers"]),
        default_sampler=data["default_sampler"],
        presets=presets,
        resident_bytes=data["resident_bytes"],
        load_seconds=data["load_seconds"],
        profiles=profiles,
        weights=_weights(data, components),
        parts=dict(data.get("parts", {})),
        preview=_preview(data, latents),
    )


def _preview(data: dict[str, Any], latents: LatentFormat) -> LatentPreview | None:
    """The [preview] table, which cards written before it was there lack."""
    if "preview" not in data:
        return None
    table = data["preview"]
    factors = tuple((float(r), float(g), float(b)) for r, g, b in table["factors"])
    red, green, blue = table["bias"]
    in_channels = latents.output_frames if latents.output_frames and not latents.frames else 1
    if len(factors) * in_channels != latents.channels:
        raise ValueError(
            f"model card: preview.factors has {len(factors)} rows, and the latents"
            f" {latents.channels // in_channels} channels"
        )
    return LatentPreview(factors, (float(red), float(green), float(blue)), table.get("psnr", 0.0))


def _safety(data: dict[str, Any]) -> Safety | None:
    """The [safety] table: only cards of models with a checker have it."""
    if "safety" not in data:
        return None
    said = {name: value for name, value in data["safety"].items() if name != "files"}  # hashes
    safety = Safety(**said)
    if not safety.model or not math.isfinite(safety.threshold):
        raise ValueError("model card: safety needs a model, and a number as its threshold")
    return safety


def _weights(data: dict[str, Any], components: Components) -> dict[str, int]:
    """The [weights] table, which cards written before it was there lack."""
    weights: dict[str, int] = data.get("weights", {})
    if strange := sorted(set(weights) - set(components.triton_models)):
        raise ValueError(f"model card: weights of no component: {', '.join(strange)}")
    if sum(weights.values()) > data["resident_bytes"]:
        raise ValueError("model card: the weights are more than resident_bytes")
    return weights


class Catalog:
    """The models that are served, by name."""

    def __init__(self, cards: Mapping[str, ModelCard]) -> None:
        self.cards = dict(sorted(cards.items()))

    @classmethod
    def read(cls, repository: Path) -> Catalog:
        """Read every card of a model repository.

        Raises:
            ValueError: a card is wrong; the message names its file.
        """
        cards = {}
        for path in sorted(repository.glob("*.toml")):
            try:
                card = ModelCard.parse(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            cards[card.name] = card
        if not cards:
            raise ValueError(f"{repository}: no model cards (*.toml) there")
        return cls(cards)

    def get(self, name: str) -> ModelCard | None:
        return self.cards.get(name)
