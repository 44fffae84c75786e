"""What to make: specs, their limits, and the one place that checks them. Pure.

A request gives some fields; `resolve` fills the rest from a preset, then from the model's defaults,
and checks every field against the model's limits (docs: protos/atelier/v1/model.proto). All bad
fields are reported at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atelier.errors import Violation
from atelier.output import (
    ImageOutput,
    VideoOutput,
    stored_image_output,
    stored_video_output,
)
from atelier.suggest import known_names, nearest_of

MAX_PROMPT_CHARACTERS = 4_000
MAX_SEED = 2**32 - 1
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
MAX_LABELS, MAX_LABEL_KEY, MAX_LABEL_VALUE = 16, 63, 255


@dataclass(frozen=True)
class Limit:
    """Bounds and default of one numeric parameter."""

    field: str
    minimum: float
    maximum: float
    default: float
    multiple_of: float = 0
    unit: str = ""

    @property
    def range(self) -> str:
        """In words, such as "64 to 512 pixels, a multiple of 8"."""
        one = self.minimum == self.maximum
        words = f"{self.minimum:g}" if one else f"{self.minimum:g} to {self.maximum:g}"
        if self.unit:
            words += f" {self.unit}"
        if self.multiple_of > 1 and not one:
            words += f", a multiple of {self.multiple_of:g}"
        return words

    def violation(self, value: float, path: str) -> Violation | None:
        """What is wrong with `value`, if anything; `path` is how the caller knows the field."""
        inside = self.minimum <= value <= self.maximum  # not, of what is no number
        if inside and not (self.multiple_of and value % self.multiple_of):
            return None
        allowed = f"must be {self.range}"
        if not math.isfinite(value):
            return Violation(path, f"{allowed}; {value} is not a finite number")
        if self.minimum == self.maximum:
            return Violation(path, f"{allowed}, and nothing else: leave it out; got {value:g}")
        nearest = nearest_of(value, self.minimum, self.maximum, self.multiple_of)
        return Violation(path, f"{allowed}; got {value:g}, next to which is {nearest:g}")


# What a caller may leave to the model: the numeric fields of each kind's spec.
_COMMON_FIELDS = ("width", "height", "steps", "guidance")
NUMERIC_FIELDS = {
    "image": (*_COMMON_FIELDS, "count"),
    "video": (*_COMMON_FIELDS, "frames", "frames_per_second"),
}


@dataclass(frozen=True)
class ImageSpec:
    """Pictures to make, every parameter filled in. Picture i has seed + i (modulo 2^32).

    Attributes:
        init_image: key of the picture to start from; "": start from noise.
        mask_image: key of the mask, white where something new is wanted; "": everywhere.
        strength: how far from init_image, in (0, 1]; 1 without one.
        preview_every: steps between two previews; 0: none.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    count: int
    sampler: str
    output: ImageOutput = field(default_factory=ImageOutput)
    init_image: str = ""
    mask_image: str = ""
    strength: float = 1.0
    preview_every: int = 0

    @property
    def shape(self) -> str:
        """What must be equal for two generations to share a batch (with the model)."""
        return f"{self.width}x{self.height}"

    @property
    def run_steps(self) -> int:
        """Steps that are made: the last of `steps`, as diffusers counts them."""
        return steps_of(self.steps, self.strength)

    def seed_of(self, index: int) -> int:
        return (self.seed + index) % (MAX_SEED + 1)


@dataclass(frozen=True)
class VideoSpec:
    """A video to make, every parameter filled in.

    Attributes:
        first_frame: key of the picture that it begins with; "": any.
        preview_every: steps between two previews; 0: none.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    frames: int
    frames_per_second: int
    sampler: str
    output: VideoOutput = field(default_factory=VideoOutput)
    first_frame: str = ""
    preview_every: int = 0

    @property
    def shape(self) -> str:
        """What must be equal for two generations to share a batch (with the model)."""
        return f"{self.width}x{self.height}x{self.frames}"

    @property
    def run_steps(self) -> int:
        """Steps that are made."""
        return self.steps

    @property
    def count(self) -> int:
        """A video is one row of its batch."""
        return 1

    def seed_of(self, index: int) -> int:
        assert index == 0
        return self.seed


def steps_of(steps: int, strength: float) -> int:
    """How many of `steps` a strength leaves; may be 0."""
    return min(steps, int(steps * strength))


def least_strength(steps: int) -> float:
    """In thousandths, what leaves one of `steps`."""
    return next(n / 1000 for n in range(1, 1001) if steps_of(steps, n / 1000))


Spec = ImageSpec | VideoSpec


def stored_spec(values: Mapping[str, Any]) -> Spec:
    """The spec of which `values` are the fields, as dataclasses.asdict gave them."""
    if "frames" not in values:
        output = values.get("output")  # rows of before there were any have none
        made = stored_image_output(output) if output else ImageOutput()
        return ImageSpec(**{**values, "output": made})
    return VideoSpec(**{**values, "output": stored_video_output(values["output"])})


@dataclass(frozen=True)
class PartialSpec:
    """What a caller gave; a number that is not in `numbers` was not given."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    sampler: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Choices:
    """What a model offers, and what the caller's preset says.

    Attributes:
        kind: "image" or "video".
        limits: one for each of the kind's NUMERIC_FIELDS.
    """

    kind: str
    limits: Mapping[str, Limit]
    samplers: tuple[str, ...]
    default_sampler: str
    preset_values: Mapping[str, float] = field(default_factory=dict)
    preset_sampler: str = ""


def resolve(
    given: PartialSpec, choices: Choices, *, seed: int, path: str
) -> tuple[Spec, list[Violation]]:
    """Fill in and check a spec.

    Args:
        given: what the caller gave.
        seed: the seed to take where none is given.
        path: prefix of the fields' paths, such as "image".

    Returns:
        The filled-in spec and every violation found; the spec is to be used only if there is none,
        and has the preset's or the model's value where the caller's is at fault.
    """
    bad = _prompt_violations(given.prompt, f"{path}.prompt", required=True)
    bad += _prompt_violations(given.negative_prompt, f"{path}.negative_prompt", required=False)

    values: dict[str, float] = {}
    for name in NUMERIC_FIELDS[choices.kind]:
        own = given.numbers.get(name)
        limit = choices.limits[name]
        values[name] = choices.preset_values.get(name, limit.default)
        if own is None:
            continue
        if violation := limit.violation(own, f"{path}.{name}"):
            bad.append(violation)
        else:
            values[name] = own

    chosen_seed = seed if given.seed is None else given.seed
    if not 0 <= chosen_seed <= MAX_SEED:
        bad.append(Violation(f"{path}.seed", f"must be 0 to {MAX_SEED}; got {chosen_seed}"))

    sampler = given.sampler or choices.preset_sampler or choices.default_sampler
    if sampler not in choices.samplers:
        known = known_names(sampler, choices.samplers)
        bad.append(Violation(f"{path}.sampler", f"unknown; {known}"))
    whole: dict[str, Any] = {n: int(value) for n, value in values.items() if n != "guidance"}
    spec = ImageSpec if choices.kind == "image" else VideoSpec
    made: Spec = spec(
        prompt=given.prompt,
        negative_prompt=given.negative_prompt,
        guidance=float(values["guidance"]),
        seed=chosen_seed,
        sampler=sampler,
        **whole,
    )
    return made, bad


def _prompt_violations(text: str, path: str, *, required: bool) -> list[Violation]:
    if required and not text.strip():
        return [Violation(path, "must not be blank: say what is to be seen")]
    if len(text) > MAX_PROMPT_CHARACTERS:
        return [Violation(path, f"at most {MAX_PROMPT_CHARACTERS} characters; got {len(text)}")]
    if "\0" in text:
        return [Violation(path, "must not contain the character NUL")]
    return []


def label_violations(labels: Mapping[str, str], path: str = "labels") -> list[Violation]:
    """What is wrong with a caller's labels."""
    if not labels:
        return []
    bad = []
    if len(labels) > MAX_LABELS:
        bad.append(Violation(path, f"at most {MAX_LABELS} labels; got {len(labels)}"))
    if any(not 1 <= len(key) <= MAX_LABEL_KEY or "\0" in key for key in labels):
        bad.append(Violation(path, f"keys have 1 to {MAX_LABEL_KEY} characters, none NUL"))
    for key, value in labels.items():
        if len(value) > MAX_LABEL_VALUE or "\0" in value:
            shown = key[:MAX_LABEL_KEY]
            bad.append(
                Violation(f"{path}[{shown}]", f"at most {MAX_LABEL_VALUE} characters, none NUL")
            )
    return bad
