"""The families that can be exported, and which of them a checkpoint is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporters.errors import CheckpointError
from exporters.families import sd, sd3, sdxl, tiny_video, wan
from exporters.families.family import Family

# The order counts: the first that fits is taken.
FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        sd.LCM, sd.SD, sd.INPAINT, sd.TURBO, sdxl.SDXL, sdxl.TURBO, sd3.SD3, wan.WAN,
        tiny_video.TINY_VIDEO,
    )
}  # fmt: skip


def family_of(index: Mapping[str, Any], configs: Mapping[str, Any], wanted: str = "auto") -> Family:
    """The family of a checkpoint.

    Args:
        index: model_index.json.
        configs: config.json of each part.
        wanted: a family's name, or "auto".

    Raises:
        CheckpointError: no family has this pipeline, or the one wanted does not exist.
    """
    if wanted != "auto":
        if wanted not in FAMILIES:
            raise CheckpointError(f"--family {wanted}: there are {', '.join(FAMILIES)}")
        return FAMILIES[wanted]
    pipeline = index.get("_class_name")
    for family in FAMILIES.values():
        if pipeline in family.pipelines and family.fits(configs):
            return family
    known = sorted({name for family in FAMILIES.values() for name in family.pipelines})
    raise CheckpointError(
        f"model_index.json: _class_name is {pipeline!r}; supported are {', '.join(known)}"
    )
