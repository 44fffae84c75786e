"""Requests in: everything a caller can get wrong is found here, all at once, by path. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate

from google.protobuf.message import Message

from atelier.catalog import Catalog, ModelCard, Preset
from atelier.errors import InvalidArgumentError, Violation
from atelier.generation import Generation, Priority
from atelier.output import (
    ImageFormat,
    ImageOutput,
    VideoFormat,
    VideoOutput,
    resolve_image_output,
)
from atelier.spec import (
    NUMERIC_FIELDS,
    REQUEST_ID,
    UUID,
    Choices,
    ImageSpec,
    PartialSpec,
    Spec,
    VideoSpec,
    label_violations,
    resolve,
)
from atelier.translate import (
    image_format_from,
    optional_time_from,
    priority_from,
    state_from,
    video_format_from,
)
from atelier.v1 import generation_pb2 as pb

DEFAULT_PAGE, MAX_PAGE = 50, 1_000
MAX_PAGE_TOKEN = 256  # characters; ours have about half of that
MAX_PAGE_BYTES = 3 * 2**20  # below gRPC's 4 MiB, which every client has by default
LATEST_DEADLINE = datetime(9999, 1, 1, tzinfo=UTC)  # whatever the time zone, it is a date
_NO_PRESET = Preset("", {})


def generation_of(
    request: pb.CreateGenerationRequest,
    *,
    catalog: Catalog,
    tenant: str,
    new_id: Callable[[], str],
    new_seed: Callable[[], int],
    now: datetime,
    path: str = "",
) -> Generation:
    """The generation that a request asks for, every parameter filled in.

    Args:
        path: where the request lies in the message sent, such as "create."

    Raises:
        InvalidArgumentError: naming every field at fault.
    """
    bad: list[Violation] = []
    if request.request_id and not REQUEST_ID.fullmatch(request.request_id):
        bad.append(
            Violation(f"{path}request_id", "at most 128 of A-Z a-z 0-9 . _ : -, or leave it empty")
        )
    card = catalog.get(request.model)
    if card is None:
        known = ", ".join(catalog.cards)
        bad.append(Violation(f"{path}model", f"unknown; these are served: {known}"))
    bad += label_violations(request.labels, f"{path}labels")
    priority = priority_from(request.priority)
    if priority is None:
        bad.append(Violation(f"{path}priority", f"unknown value {request.priority}"))
    deadline = _time_of(request, "deadline", path, bad)
    if deadline and not now < deadline < LATEST_DEADLINE:
        bad.append(
            Violation(
                f"{path}deadline",
                f"must lie in the future, before {LATEST_DEADLINE:%Y}; leave it unset for none",
            )
        )
    spec = _spec_of(request, card, path, bad, new_seed) if card else None
    if bad or spec is None:
        raise InvalidArgumentError(bad)
    return Generation(
        id=new_id(),
        tenant=tenant,
        model=request.model,
        spec=spec,
        create_time=now,
        priority=priority or Priority.NORMAL,
        deadline=deadline,
        labels=dict(request.labels),
        request_id=request.request_id,
        request_hash=hash_of(request),
    )


def _time_of(message: Message, field: str, path: str, bad: list[Violation]) -> datetime | None:
    """A Timestamp field of `message`; None where it is unset, or no time and thus in `bad`."""
    try:
        return optional_time_from(message, field)
    except (ValueError, OverflowError):
        bad.append(Violation(f"{path}{field}", "must be a time of the years 1 to 9999"))
        return None


def hash_of(request: pb.CreateGenerationRequest) -> bytes:
    """What makes two requests of one key the same: all that the caller sent, as we know it."""
    known = pb.CreateGenerationRequest()
    known.CopyFrom(request)
    known.DiscardUnknownFields()
    return hashlib.sha256(known.SerializeToString(deterministic=True)).digest()


def _spec_of(
    request: pb.CreateGenerationRequest,
    card: ModelCard,
    path: str,
    bad: list[Violation],
    new_seed: Callable[[], int],
) -> Spec | None:
    given = request.WhichOneof("spec")
    if given != card.kind:
        bad.append(Violation(f"{path}spec", f"{card.name} makes {card.kind}s: fill in {card.kind}"))
        return None
    preset = card.presets.get(request.preset) if request.preset else _NO_PRESET
    if preset is None:
        known = ", ".join(card.presets) or "none"
        bad.append(Violation(f"{path}preset", f"unknown; {card.name} has: {known}"))
        preset = _NO_PRESET
    choices = Choices(
        kind=card.kind,
        limits=card.limits,
        samplers=card.samplers,
        default_sampler=card.default_sampler,
        preset_values=preset.values,
        preset_sampler=preset.sampler,
    )
    path += given
    wanted = request.video if given == "video" else request.image
    spec, violations = resolve(_partial(wanted, given), choices, seed=new_seed(), path=path)
    bad += violations
    if isinstance(spec, VideoSpec):
        return replace(spec, output=_video_output_of(request.video.output, f"{path}.output", bad))
    return replace(spec, output=_image_output_of(request.image.output, spec, f"{path}.output", bad))


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


def _image_output_of(
    output: pb.ImageOutput, spec: ImageSpec, path: str, bad: list[Violation]
) -> ImageOutput:
    """How the files are to be written; what is wrong with it goes to `bad`."""
    format_ = image_format_from(output.format)
    if format_ is None:
        known = ", ".join(ImageFormat)
        bad.append(Violation(f"{path}.format", f"unknown value {output.format}; one of {known}"))
        return ImageOutput()
    made, violations = resolve_image_output(
        format_,
        output.quality if output.HasField("quality") else None,
        output.thumbnail_size if output.HasField("thumbnail_size") else None,
        omit_metadata=output.omit_metadata,
        longer_side=max(spec.width, spec.height),
        path=path,
    )
    bad += violations
    return made


def _video_output_of(output: pb.VideoOutput, path: str, bad: list[Violation]) -> VideoOutput:
    """How the file is to be written; what is wrong with it goes to `bad`."""
    format_ = video_format_from(output.format)
    if format_ is None:
        known = ", ".join(VideoFormat)
        bad.append(Violation(f"{path}.format", f"unknown value {output.format}; one of {known}"))
    return VideoOutput(format_ or VideoFormat.MP4, output.omit_metadata)


def checked_id(generation_id: str, field: str = "id") -> str:
    """A well-formed id, in lower case.

    Raises:
        InvalidArgumentError: it is no UUIDv7.
    """
    lower = generation_id.lower()
    if not UUID.fullmatch(lower):
        raise InvalidArgumentError(
            [
                Violation(
                    field, "must be a generation's id, such as CreateGeneration gave (a UUIDv7)"
                )
            ]
        )
    return lower


def page_of(request: pb.ListGenerationsRequest, tenant: str) -> tuple[int, str]:
    """Page size, and the id below which the page begins ("" for the first).

    Raises:
        InvalidArgumentError: a bad page size, filter or token, or a token of another query.
    """
    bad: list[Violation] = []
    if not 0 <= request.page_size <= MAX_PAGE:
        bad.append(Violation("page_size", f"must be 0 to {MAX_PAGE}; got {request.page_size}"))
    if any(state_from(number) is None for number in request.filter.states):
        bad.append(Violation("filter.states", "holds an unknown or unspecified state"))
    bad += label_violations(request.filter.labels, "filter.labels")
    if "\0" in request.filter.model:
        bad.append(Violation("filter.model", "must not contain the character NUL"))
    for field in ("created_after", "created_before"):
        _time_of(request.filter, field, "filter.", bad)
    before = ""
    if request.page_token:
        try:
            if len(request.page_token) > MAX_PAGE_TOKEN:
                raise ValueError("too long")
            token = json.loads(base64.urlsafe_b64decode(request.page_token.encode()))
            before, query = token["before"], token["query"]
            if not UUID.fullmatch(before):
                raise ValueError("no id")
            if query != _query_hash(request, tenant):
                bad.append(
                    Violation("page_token", "belongs to another query: repeat its filter exactly")
                )
        except (binascii.Error, ValueError, KeyError, TypeError):
            bad.append(Violation("page_token", "is not one that ListGenerations gave"))
    if bad:
        raise InvalidArgumentError(bad)
    return request.page_size or DEFAULT_PAGE, before


def page_token(request: pb.ListGenerationsRequest, tenant: str, last_id: str) -> str:
    """The token of the page after the one that ends with `last_id`."""
    token = {"before": last_id, "query": _query_hash(request, tenant)}
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode()


def fits_page(sizes: Iterable[int]) -> int:
    """How many of these sizes, in bytes, a page has room for; at least one."""
    totals = list(accumulate(sizes))
    return max(1, bisect_right(totals, MAX_PAGE_BYTES))


def _query_hash(request: pb.ListGenerationsRequest, tenant: str) -> str:
    query = request.filter.SerializeToString(deterministic=True)
    return hashlib.sha256(tenant.encode() + b"\0" + query).hexdigest()[:16]
