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

    def request(self, model: model_pb2.Model) -> generation_pb2.GenerateRequest:
        """The wish as the gateway takes it.

        Raises:
            ProblemError: a number is too large to be sent.
        """
        request = generation_pb2.GenerateRequest(inline_results=True)
        request.create.model = model.name
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
                line = f"{problems.option(name)}: {model.name} makes {kind}; leave it out"
                raise problems.ProblemError([line], problems.BAD_INPUT)
            try:
                setattr(spec, field, value)
            except ValueError as error:
                line = f"{problems.option(name)}: {value} is out of range"
                raise problems.ProblemError([line], problems.BAD_INPUT) from error
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
        if self.quality is not None:
            if isinstance(spec, generation_pb2.VideoSpec):
                line = f"--quality: {model} makes {kind}; leave it out"
                raise problems.ProblemError([line], problems.BAD_INPUT)
            spec.output.quality = max(-1, min(self.quality, 2**31 - 1))
        if not self.metadata:
            spec.output.omit_metadata = True
