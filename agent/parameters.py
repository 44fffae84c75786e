"""What a result's file tells of how it was made, so that it can be made again. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from atelier.catalog import ModelCard
from atelier.spec import ImageSpec, Spec, VideoSpec


def parameters_of(spec: Spec, index: int, card: ModelCard) -> dict[str, Any]:
    """Of picture `index`: prompt, seed, model and all that it was made from."""
    return {
        "prompt": spec.prompt,
        "prompt_sha256": hashlib.sha256(spec.prompt.encode()).hexdigest(),
        "negative_prompt": spec.negative_prompt,
        "seed": spec.seed_of(index),
        "steps": spec.steps,
        "guidance": spec.guidance,
        "sampler": spec.sampler,
        "size": spec.shape,
        **(_of_video(spec) if isinstance(spec, VideoSpec) else _of_picture(spec)),
        "model": card.name,
        "model_version": card.version,
    }


def _of_picture(spec: ImageSpec) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if spec.init_image:
        told |= {"init_image": _source(spec.init_image), "strength": spec.strength}
    if spec.mask_image:
        told["mask_image"] = _source(spec.mask_image)
    if spec.output.crop:
        told["crop"] = asdict(spec.output.crop)
    if spec.output.resize:
        told["resize"] = {side: n for side, n in asdict(spec.output.resize).items() if n}
    return told


def _of_video(spec: VideoSpec) -> dict[str, Any]:
    told: dict[str, Any] = {"frames_per_second": spec.frames_per_second}
    if spec.first_frame:
        told["first_frame"] = _source(spec.first_frame)
    return told


def _source(key: str) -> str:
    """A picture that was brought, without its tenant's name: by the SHA-256 of its file, which is
    in the key of an input; of a result, by generation, attempt and file."""
    folder, _, rest = key.partition("/")
    within = rest.partition("/")[2]
    return f"sha256:{within.partition('.')[0]}" if folder == "inputs" else f"{folder}/{within}"
