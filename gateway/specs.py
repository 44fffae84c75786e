"""Specs in: filled in and checked against the model's card, with the pictures they name. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from atelier.catalog import ModelCard, Preset
from atelier.errors import Violation
from atelier.object_keys import input_key, is_own
from atelier.output import (
    Crop,
    GivenOutput,
    ImageFormat,
    ImageOutput,
    VideoFormat,
    VideoOutput,
    resolve_image_output,
    thumbnail_violations,
)
from atelier.pictures import kind_of
from atelier.spec import (
    NUMERIC_FIELDS,
    Choices,
    ImageSpec,
    PartialSpec,
    Spec,
    VideoSpec,
    least_strength,
    resolve,
    steps_of,
)
from atelier.translate import image_format_from, video_format_from
from atelier.v1 import generation_pb2 as pb
from gateway import offers

T = TypeVar("T", bound=ImageSpec | VideoSpec)

NO_PRESET = Preset("", {})
_NOT_YOURS = "is no key of yours that holds a picture: see Result.object_key of your generations"


@dataclass(frozen=True)
class Picture:
    """One that a caller brings.

    Attributes:
        path: of its field.
        key: where it is to lie, or lies already.
        data: its file; None where only the key was given.
        content_type: of `data`, by its first bytes.
    """

    path: str
    key: str
    data: bytes | None = None
    content_type: str = ""

    @property
    def not_there(self) -> Violation:
        """Nothing lies under its key; told as of another's key, so that nobody learns of those."""
        return Violation(f"{self.path}.object_key", _NOT_YOURS)


class SpecReader:
    """Reads the spec of one request; afterwards `bad` and `pictures` hold what was found."""

    def __init__(self, card: ModelCard, tenant: str) -> None:
        self.bad: list[Violation] = []
        self.pictures: list[Picture] = []
        self._card = card
        self._tenant = tenant

    def read(
        self,
        request: pb.CreateGenerationRequest,
        path: str,
        new_seed: Callable[[], int],
        preset: Preset = NO_PRESET,
    ) -> Spec | None:
        """The spec, to be used only if nothing is bad; None where there is none.

        Args:
            path: where the request lies in the message sent, such as "create."
            preset: one of the model's own.
        """
        card, kind = self._card, request.WhichOneof("spec")
        if kind != card.kind:
            self._wrong(f"{path}spec", f"{card.name} makes {card.kind}s: fill in {card.kind}")
            return None
        choices = Choices(
            kind=card.kind,
            limits=card.limits,
            samplers=card.samplers,
            default_sampler=card.default_sampler,
            preset_values=preset.values,
            preset_sampler=preset.sampler,
        )
        given = request.video if kind == "video" else request.image
        path += kind
        spec, violations = resolve(_partial(given, kind), choices, seed=new_seed(), path=path)
        self.bad += violations
        spec = _changed(spec, preview_every=self._preview_every(given, spec, path))
        if isinstance(spec, VideoSpec):
            return self._video(request.video, spec, path)
        return self._image(request.image, spec, path)

    def _image(self, given: pb.ImageSpec, spec: ImageSpec, path: str) -> ImageSpec:
        init_image = mask_image = ""
        strength = 1.0
        if not offers.takes_images(self._card):
            for name in ("init_image", "mask_image", "strength"):
                if given.HasField(name):
                    text = f"{self._card.name} starts from no picture: leave it out, or take a"
                    self._wrong(f"{path}.{name}", f"{text} model of ListModels with takes_images")
        elif given.HasField("init_image"):
            init_image = self._key(given.init_image, f"{path}.init_image")
            if given.HasField("mask_image"):
                mask_image = self._key(given.mask_image, f"{path}.mask_image")
            strength = self._strength(given, spec, path)
        else:
            for name in ("mask_image", "strength"):
                if given.HasField(name):  # type: ignore[arg-type]
                    self._wrong(f"{path}.{name}", "needs init_image; without one leave it out")
        return _changed(
            spec,
            output=self._image_output(given.output, spec, path),
            init_image=init_image,
            mask_image=mask_image,
            strength=strength,
        )

    def _video(self, given: pb.VideoSpec, spec: VideoSpec, path: str) -> VideoSpec:
        first_frame = ""
        if given.HasField("first_frame"):
            if offers.takes_first_frame(self._card):
                first_frame = self._key(given.first_frame, f"{path}.first_frame")
            else:
                text = f"{self._card.name} takes none: leave it out, or take a"
                text += " model of ListModels with takes_first_frame"
                self._wrong(f"{path}.first_frame", text)
        output = self._video_output(given.output, spec, path)
        return _changed(spec, output=output, first_frame=first_frame)

    def _key(self, given: pb.InputImage, path: str) -> str:
        """Where a picture lies or will lie; it joins those that are still to be looked at."""
        match given.WhichOneof("source"):
            case "data":
                data = given.data
                suffix, content_type = kind_of(data)
                key = input_key(self._tenant, hashlib.sha256(data).hexdigest(), suffix)
                self.pictures.append(Picture(path, key, data, content_type))
                return key
            case "object_key" if is_own(self._tenant, given.object_key):
                self.pictures.append(Picture(path, given.object_key))
                return given.object_key
            case "object_key":
                self.bad.append(Picture(path, "").not_there)
            case _:
                self._wrong(path, "holds nothing: fill in data or object_key, or leave it out")
        return ""

    def _strength(self, given: pb.ImageSpec, spec: ImageSpec, path: str) -> float:
        if not given.HasField("strength"):
            strength = 1.0 if given.HasField("mask_image") else offers.DEFAULT_STRENGTH
        else:
            strength = given.strength
        if not 0 < strength <= 1:  # NaN too
            self._wrong(f"{path}.strength", f"must be above 0, at most 1; got {strength:g}")
            return 1.0
        if steps_of(spec.steps, strength) < 1 and self._is_good(f"{path}.steps"):
            text = f"{strength:g} of {spec.steps} steps leaves none:"
            text += f" at least {least_strength(spec.steps):g} leaves one"
            most = int(self._card.limits["steps"].maximum)
            enough = next((n for n in range(1, most + 1) if steps_of(n, strength)), None)
            text += f", or at least {enough} steps" if enough else ""
            self._wrong(f"{path}.strength", text)
        return strength

    def _preview_every(self, given: pb.ImageSpec | pb.VideoSpec, spec: Spec, path: str) -> int:
        if not given.HasField("preview_every"):
            return 0
        field = f"{path}.preview_every"
        if not offers.has_previews(self._card):
            self._wrong(field, f"{self._card.name} has no previews: leave it out")
            return 0
        good = self._is_good(f"{path}.steps")
        most = spec.steps if good else int(self._card.limits["steps"].maximum)
        if not 1 <= given.preview_every <= most:
            allowed = f"must be 1 to {most}, the steps, or left out"
            self._wrong(field, f"{allowed}; got {given.preview_every}")
        return given.preview_every

    def _image_output(self, given: pb.ImageOutput, spec: ImageSpec, path: str) -> ImageOutput:
        format_ = image_format_from(given.format)
        if format_ is None:
            text = f"unknown value {given.format}; one of {', '.join(ImageFormat)}"
            self._wrong(f"{path}.output.format", text)
            format_ = ImageFormat.JPEG  # by which the rest is judged: it has a quality
        crop, resize = given.crop, given.resize
        said = GivenOutput(
            format=format_,
            quality=given.quality if given.HasField("quality") else None,
            thumbnail_size=given.thumbnail_size if given.HasField("thumbnail_size") else None,
            omit_metadata=given.omit_metadata,
            crop=Crop(crop.x, crop.y, crop.width, crop.height) if given.HasField("crop") else None,
            resize=(
                resize.width if resize.HasField("width") else None,
                resize.height if resize.HasField("height") else None,
            )
            if given.HasField("resize")
            else None,
        )
        size = self._size(spec, path)
        output, violations = resolve_image_output(said, size, path=f"{path}.output")
        self.bad += violations
        return output

    def _video_output(self, given: pb.VideoOutput, spec: VideoSpec, path: str) -> VideoOutput:
        format_ = video_format_from(given.format)
        if format_ is None:
            text = f"unknown value {given.format}; one of {', '.join(VideoFormat)}"
            self._wrong(f"{path}.output.format", text)
        thumbnail = given.thumbnail_size if given.HasField("thumbnail_size") else None
        self.bad += thumbnail_violations(thumbnail, self._size(spec, path), f"{path}.output")
        return VideoOutput(format_ or VideoFormat.MP4, given.omit_metadata, thumbnail or 0)

    def _size(self, spec: Spec, path: str) -> tuple[int, int] | None:
        """Of what is made; None where it is at fault, so that nothing is judged by it."""
        good = self._is_good(f"{path}.width") and self._is_good(f"{path}.height")
        return (spec.width, spec.height) if good else None

    def _is_good(self, field: str) -> bool:
        return all(violation.field != field for violation in self.bad)

    def _wrong(self, field: str, text: str) -> None:
        self.bad.append(Violation(field, text))


def _changed(spec: T, **values: Any) -> T:
    """The spec with these values: most requests leave them as they are, and to look costs less than
    a copy."""
    if all(getattr(spec, name) == value for name, value in values.items()):
        return spec
    return replace(spec, **values)


def _partial(spec: pb.ImageSpec | pb.VideoSpec, kind: str) -> PartialSpec:
    return PartialSpec(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        seed=spec.seed if spec.HasField("seed") else None,
        sampler=spec.sampler,
        numbers={
            name: getattr(spec, name)
            for name in NUMERIC_FIELDS[kind]
            if spec.HasField(name)  # type: ignore[arg-type]
        },
    )
