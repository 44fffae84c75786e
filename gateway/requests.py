"""Requests in: everything a caller can get wrong is found here, all at once, by path. Pure.

Specs are read in specs.py; what is in pictures is for inputs.py to find.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

from google.protobuf.message import Message

from atelier.catalog import Catalog, ModelCard
from atelier.errors import InvalidArgumentError, Violation, refuse
from atelier.generation import Generation, Priority
from atelier.spec import REQUEST_ID, UUID, label_violations
from atelier.suggest import known_names
from atelier.translate import optional_time_from, priority_from, state_from
from atelier.v1 import generation_pb2 as pb
from gateway.presets import NOTHING, Found, filled_in, reference_to
from gateway.specs import NO_PRESET, Picture, SpecReader
from gateway.vocabulary import unknown_fields

DEFAULT_PAGE, MAX_PAGE = 50, 1_000
MAX_PAGE_TOKEN = 256  # characters; ours have about half of that
MAX_PAGE_BYTES = 3 * 2**20  # below gRPC's 4 MiB, which every client has by default
LATEST_DEADLINE = datetime(9999, 1, 1, tzinfo=UTC)  # whatever the time zone, it is a date


@dataclass(frozen=True)
class Asked:
    """What a request asks for, as far as it can be told without looking at its pictures.

    Attributes:
        generation: to be used only if nothing is bad; None where it cannot be told.
        pictures: that are still to be looked at.
        bad: everything that is wrong so far.
    """

    generation: Generation | None
    pictures: tuple[Picture, ...]
    bad: tuple[Violation, ...]

    def checked(self, of_pictures: Iterable[Violation] = ()) -> Generation:
        """The generation, every parameter filled in.

        Args:
            of_pictures: what is wrong with them.

        Raises:
            InvalidArgumentError: naming every field at fault.
        """
        bad = [*self.bad, *of_pictures]
        if bad or self.generation is None:
            raise InvalidArgumentError(bad)
        return self.generation


def asked_of(
    request: pb.CreateGenerationRequest,
    *,
    catalog: Catalog,
    tenant: str,
    new_id: Callable[[], str],
    new_seed: Callable[[], int],
    now: datetime,
    presets: Found = NOTHING,
    path: str = "",
) -> Asked:
    """What a request asks for.

    Args:
        presets: that callers wrote, of those that the request may name.
        path: where the request lies in the message sent, such as "create."
    """
    known = _known_of(request)
    # Two sizes take less than to look through the request, and hardly any has such fields.
    bad = unknown_fields(request, path) if known.ByteSize() != request.ByteSize() else []
    if request.request_id and not REQUEST_ID.fullmatch(request.request_id):
        bad.append(
            Violation(f"{path}request_id", "at most 128 of A-Z a-z 0-9 . _ : -, or leave it empty")
        )
    card = catalog.get(request.model)
    if card is None:
        text = f"unknown; {known_names(request.model, catalog.cards)}"
        bad.append(Violation(f"{path}model", text))
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
    if card is None:
        return Asked(None, (), tuple(bad))
    reader = SpecReader(card, tenant)
    whole, given, preset = _with_preset(request, card, presets, path, bad)
    spec = reader.read(whole, path, new_seed, card.presets.get(preset, NO_PRESET))
    bad += [_by_preset(wrong, given, preset, path) for wrong in reader.bad]
    if bad or spec is None:
        return Asked(None, tuple(reader.pictures), tuple(bad))
    generation = Generation(
        id=new_id(),
        tenant=tenant,
        model=request.model,
        spec=spec,
        create_time=now,
        priority=priority or Priority.NORMAL,
        deadline=deadline,
        labels=dict(request.labels),
        request_id=request.request_id,
        request_hash=_hash(known),  # as it was sent: a preset may be another by the next try
        preset=preset,
    )
    return Asked(generation, tuple(reader.pictures), ())


def _with_preset(
    request: pb.CreateGenerationRequest,
    card: ModelCard,
    presets: Found,
    path: str,
    bad: list[Violation],
) -> tuple[pb.CreateGenerationRequest, frozenset[str], str]:
    """The request with what its preset gives, the fields that this is, and the preset's name as
    the generation tells it. One of the model's own is left to SpecReader."""
    name = request.preset
    if not (template := presets.presets.get((card.name, name))):
        if name and name not in card.presets:
            known = {*card.presets, *presets.names.get(card.name, ())}
            text = f"{card.name} knows none of that name; {known_names(name, known)}"
            bad.append(Violation(f"{path}preset", text))
            name = ""
        return request, frozenset(), name
    whole, kind = pb.CreateGenerationRequest(), template.WhichOneof("spec")
    whole.CopyFrom(request)
    if request.WhichOneof("spec") not in (None, kind):  # SpecReader says so
        return request, frozenset(), reference_to(template)
    if kind == "video":
        given = filled_in(whole.video, template.video)
    else:
        given = filled_in(whole.image, template.image)
    return whole, frozenset(given), reference_to(template)


def _by_preset(wrong: Violation, given: frozenset[str], preset: str, path: str) -> Violation:
    """What is wrong with a value that the caller did not give tells where it comes from."""
    field = wrong.field.removeprefix(path).partition(".")[2].partition(".")[0]
    if field not in given:
        return wrong
    return Violation(wrong.field, f"{wrong.description} (from the preset {preset})")


def _time_of(message: Message, field: str, path: str, bad: list[Violation]) -> datetime | None:
    """A Timestamp field of `message`; None where it is unset, or no time and thus in `bad`."""
    try:
        return optional_time_from(message, field)
    except (ValueError, OverflowError):
        bad.append(Violation(f"{path}{field}", "must be a time of the years 1 to 9999"))
        return None


def hash_of(request: pb.CreateGenerationRequest) -> bytes:
    """What makes two requests of one key the same: all that the caller sent, as we know it."""
    return _hash(_known_of(request))


def _hash(known: pb.CreateGenerationRequest) -> bytes:
    return hashlib.sha256(known.SerializeToString(deterministic=True)).digest()


def _known_of(request: pb.CreateGenerationRequest) -> pb.CreateGenerationRequest:
    """A copy without what only a later contract knows."""
    known = pb.CreateGenerationRequest()
    known.CopyFrom(request)
    known.DiscardUnknownFields()
    return known


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
    refuse(bad)
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
