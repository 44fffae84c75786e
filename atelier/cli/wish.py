"""What `atelier generate` was asked for, and the request that says so."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from atelier.cli import problems
from atelier.v1 import generation_pb2, model_pb2

_NUMBERS = ("width", "height", "steps", "guidance", "seed", "count", "fps", "preview_every")
_SPELLINGS = {"jpg": "jpeg"}
_FIELDS = {"fps": "frames_per_second"}  # where an option has a shorter name


@dataclass(frozen=True)
class Wish:
    """What to make. None: the model's own default."""

    prompt: str
    model: str = ""  # empty: the first that makes pictures
    negative: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    count: int | None = None
    fps: int | None = None
    format: str = ""  # png, jpeg, webp, avif; mp4, webm; empty: the house's own choice
    quality: int | None = None
    metadata: bool = True
    preview_every: int | None = None  # steps; None: no previews
    init_image: generation_pb2.InputImage | None = None
    mask: generation_pb2.InputImage | None = None
    strength: float | None = None
    first_frame: generation_pb2.InputImage | None = None
    thumbnail: int | None = None  # pixels of its longer side; None: no small copy
    crop: generation_pb2.Crop | None = None
    resize: generation_pb2.Resize | None = None
    preset: str = ""
    webhook_url: str = ""  # told of its end

    def suits(self, model: model_pb2.Model) -> bool:
        """Whether a model that was not named can do it: make a picture, if nothing else is said."""
        if self.first_frame:
            return model.takes_first_frame
        starts = bool(self.init_image or self.mask or self.strength is not None)
        return model.kind == model_pb2.MODEL_KIND_IMAGE and (model.takes_images or not starts)

    def request(self, model: model_pb2.Model) -> generation_pb2.GenerateRequest:
        """The wish as the gateway takes it.

        Raises:
            ProblemError: a number is too large to be sent.
        """
        request = generation_pb2.GenerateRequest(inline_results=True)
        request.create.model, request.create.preset = model.name, self.preset
        request.create.webhook_url = self.webhook_url
        request.create.request_id = secrets.token_hex(16)  # so that asking again is safe
        video = model.kind == model_pb2.MODEL_KIND_VIDEO
        spec = request.create.video if video else request.create.image
        spec.prompt, spec.negative_prompt = self.prompt, self.negative
        kind = "videos" if video else "pictures"
        for name in _NUMBERS:
            if (value := getattr(self, name)) is None:
                continue
            field = _FIELDS.get(name, name)
            if field not in spec.DESCRIPTOR.fields_by_name:
                raise _no_use(name, model.name, kind)
            try:
                setattr(spec, field, value)
            except ValueError as error:
                line = f"{problems.option(name)}: {value} is out of range"
                raise problems.ProblemError([line], problems.BAD_INPUT) from error
        for field, value in (
            ("init_image", self.init_image),
            ("mask_image", self.mask),
            ("first_frame", self.first_frame),
        ):
            if value is not None:
                if field not in spec.DESCRIPTOR.fields_by_name:
                    raise _no_use(field, model.name, kind)
                getattr(spec, field).CopyFrom(value)
        if self.strength is not None:
            if isinstance(spec, generation_pb2.VideoSpec):
                raise _no_use("strength", model.name, kind)
            spec.strength = self.strength
        self._fill_output(spec, model.name, kind)
        return request

    def _fill_output(
        self, spec: generation_pb2.ImageSpec | generation_pb2.VideoSpec, model: str, kind: str
    ) -> None:
        """How the file is to be written, as far as anything was said about it."""
        video = isinstance(spec, generation_pb2.VideoSpec)
        formats = generation_pb2.VideoFormat if video else generation_pb2.ImageFormat
        prefix = "VIDEO_FORMAT_" if video else "IMAGE_FORMAT_"
        if self.format:
            chosen = prefix + _SPELLINGS.get(self.format.lower(), self.format).upper()
            if chosen not in formats.keys()[1:]:
                known = ", ".join(name.removeprefix(prefix).lower() for name in formats.keys()[1:])
                line = f"--format {self.format}: {model} makes {kind}: say {known}"
                raise problems.ProblemError([line], problems.BAD_INPUT)
            spec.output.format = formats.Value(chosen)
        if self.thumbnail is not None:
            spec.output.thumbnail_size = _int32(self.thumbnail)
        if not self.metadata:
            spec.output.omit_metadata = True
        if isinstance(spec, generation_pb2.VideoSpec):
            for name in ("quality", "crop", "resize"):
                if getattr(self, name) is not None:
                    raise _no_use(name, model, kind)
            return
        if self.quality is not None:
            spec.output.quality = _int32(self.quality)
        if self.crop is not None:
            spec.output.crop.CopyFrom(self.crop)
        if self.resize is not None:
            spec.output.resize.CopyFrom(self.resize)


def _no_use(name: str, model: str, kind: str) -> problems.ProblemError:
    line = f"{problems.option(name)}: {model} makes {kind}; leave it out"
    return problems.ProblemError([line], problems.BAD_INPUT)


def _int32(value: int) -> int:
    """As a message's field has room for; what is cut off is refused by the gateway all the same."""
    return max(-1, min(value, 2**31 - 1))
