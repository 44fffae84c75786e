"""Requests out of arguments. What is not given is left to the preset, then to the model.

Both draw a request_id where none is given: it is the same in every try, so that trying again never
makes a second generation.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from atelier.v1 import generation_pb2 as pb


def image(
    model: str,
    prompt: str,
    *,
    negative_prompt: str = "",
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    count: int | None = None,
    sampler: str = "",
    output: pb.ImageOutput | None = None,
    init_image: bytes | None = None,
    mask_image: bytes | None = None,
    strength: float | None = None,
    preview_every: int | None = None,
    preset: str = "",
    labels: Mapping[str, str] | None = None,
    priority: pb.Priority.ValueType = pb.PRIORITY_UNSPECIFIED,
    deadline: datetime | None = None,
    request_id: str = "",
) -> pb.CreateGenerationRequest:
    """A request for pictures; the fields are those of `ImageSpec`.

    Args:
        width: pixels, as height is.
        init_image: a picture's file to start from, as mask_image is.
        deadline: when it expires if it is not done; with a time zone.

    Raises:
        ValueError: a number that its field has no room for, or a deadline without a time zone.
    """
    spec = pb.ImageSpec(
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        seed=seed,
        count=count,
        sampler=sampler,
        output=output,
        init_image=_picture(init_image),
        mask_image=_picture(mask_image),
        strength=strength,
        preview_every=preview_every,
    )
    request = _request(model, preset, labels, priority, deadline, request_id)
    request.image.CopyFrom(spec)
    return request


def video(
    model: str,
    prompt: str,
    *,
    negative_prompt: str = "",
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    frames: int | None = None,
    frames_per_second: int | None = None,
    sampler: str = "",
    output: pb.VideoOutput | None = None,
    first_frame: bytes | None = None,
    preview_every: int | None = None,
    preset: str = "",
    labels: Mapping[str, str] | None = None,
    priority: pb.Priority.ValueType = pb.PRIORITY_UNSPECIFIED,
    deadline: datetime | None = None,
    request_id: str = "",
) -> pb.CreateGenerationRequest:
    """A request for a video; the fields are those of `VideoSpec`, the rest as for `image`."""
    spec = pb.VideoSpec(
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        seed=seed,
        frames=frames,
        frames_per_second=frames_per_second,
        sampler=sampler,
        output=output,
        first_frame=_picture(first_frame),
        preview_every=preview_every,
    )
    request = _request(model, preset, labels, priority, deadline, request_id)
    request.video.CopyFrom(spec)
    return request


def with_request_id(request: pb.CreateGenerationRequest) -> pb.CreateGenerationRequest:
    """The request, or a copy with a request_id where it has none."""
    if request.request_id:
        return request
    named = pb.CreateGenerationRequest()
    named.CopyFrom(request)
    named.request_id = secrets.token_hex(16)
    return named


def _request(
    model: str,
    preset: str,
    labels: Mapping[str, str] | None,
    priority: pb.Priority.ValueType,
    deadline: datetime | None,
    request_id: str,
) -> pb.CreateGenerationRequest:
    request = pb.CreateGenerationRequest(
        request_id=request_id, model=model, preset=preset, labels=labels, priority=priority
    )
    if deadline is not None:
        request.deadline.CopyFrom(timestamp(deadline, "deadline"))
    return with_request_id(request)


def timestamp(at: datetime, name: str) -> Timestamp:
    """Raises ValueError: a time without a zone is not one moment."""
    if at.tzinfo is None:
        raise ValueError(f"{name} has no time zone: give one, such as datetime.now(UTC)")
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _picture(file: bytes | None) -> pb.InputImage | None:
    return None if file is None else pb.InputImage(data=file)
