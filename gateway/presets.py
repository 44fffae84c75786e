"""Presets in: how they are named, checked when they are written, and filled in when they are used.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from atelier.catalog import Catalog
from atelier.errors import Violation
from atelier.object_keys import input_key
from atelier.suggest import known_names
from atelier.v1 import generation_pb2, preset_pb2
from atelier.v1.preset_store_pb2 import FoundPreset, PresetKey
from gateway import offers
from gateway.specs import SpecReader
from gateway.vocabulary import unknown_fields

MAX_DESCRIPTION = 1_000
SHARED = "shared/"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NAMED = re.compile(
    rf"(?P<shared>{SHARED})?(?P<name>{NAME.pattern})(@(?P<version>[1-9]\d{{0,8}}))?"
)
_BAD_NAME = "must be at most 63 of a-z 0-9 . _ -, beginning with a letter or a digit"
_OF_A_REQUEST = ("init_image", "mask_image", "first_frame")

SpecMessage = generation_pb2.ImageSpec | generation_pb2.VideoSpec


@dataclass(frozen=True)
class Found:
    """What there is of the presets that requests name.

    Attributes:
        presets: by model, and the reference as the request has it.
        names: of a model for which a preset was not found, what could have been meant.
    """

    presets: Mapping[tuple[str, str], preset_pb2.Preset]
    names: Mapping[str, tuple[str, ...]]


NOTHING = Found({}, {})


def keys_of(model: str, reference: str) -> list[PresetKey]:
    """Where a reference may lead, the first that is there first; none where it is malformed."""
    if not (named := _NAMED.fullmatch(reference)) or "\0" in model:
        return []
    name, version = named["name"], int(named["version"] or 0)
    which = [True] if named["shared"] else [False, True]
    return [PresetKey(model=model, name=name, shared=one, version=version) for one in which]


def reference_to(preset: preset_pb2.Preset) -> str:
    """How a request names this very version."""
    return f"{SHARED if preset.shared else ''}{preset.name}@{preset.version}"


def chosen(
    wanted: Iterable[tuple[str, str]], there: Iterable[FoundPreset]
) -> dict[tuple[str, str], preset_pb2.Preset]:
    """For each (model, reference), the preset that it leads to, if any, among what was found by
    `keys_of`."""
    by_key = {_plain(one.key): one.preset for one in there}
    found = {}
    for model, reference in wanted:
        for key in keys_of(model, reference):
            if preset := by_key.get(_plain(key)):
                found[model, reference] = preset
                break
    return found


def _plain(key: PresetKey) -> tuple[str, str, bool, int]:
    return (key.model, key.name, key.shared, key.version)


def filled_in(spec: SpecMessage, template: SpecMessage) -> set[str]:
    """Let `template` say what `spec` leaves unset; the fields that it said. What is within
    `output` is filled in field by field, all else as a whole; a strength only where there is a
    picture for it."""
    taken = set()
    for field, value in template.ListFields():
        if field.name == "strength" and not _says(spec, "init_image"):
            continue
        if field.name == "output" and spec.HasField("output"):
            for inner, part in template.output.ListFields():
                if not _says(spec.output, inner.name):
                    _set(spec.output, inner.name, part)
        elif not _says(spec, field.name):
            _set(spec, field.name, value)
            taken.add(field.name)
    return taken


def _says(message: Message, name: str) -> bool:
    return any(field.name == name for field, _ in message.ListFields())


def _set(message: Message, name: str, value: object) -> None:
    if isinstance(value, Message):
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def key_violations(model: str, name: str, path: str = "") -> list[Violation]:
    """What is wrong with how a preset is named; its model need not be served any more."""
    bad = []
    if not model or "\0" in model:
        bad.append(Violation(f"{path}model", "must be the name of a model"))
    if not NAME.fullmatch(name):
        bad.append(Violation(f"{path}name", _BAD_NAME))
    return bad


def preset_violations(
    preset: preset_pb2.Preset, catalog: Catalog, tenant: str, path: str = "preset"
) -> list[Violation]:
    """What is wrong with a preset that is to be written, by the model's card."""
    bad = unknown_fields(preset, f"{path}.")
    if not NAME.fullmatch(preset.name):
        bad.append(Violation(f"{path}.name", _BAD_NAME))
    if len(preset.description) > MAX_DESCRIPTION or "\0" in preset.description:
        text = f"at most {MAX_DESCRIPTION} characters, none of them NUL"
        bad.append(Violation(f"{path}.description", text))
    card, kind = catalog.get(preset.model), preset.WhichOneof("spec")
    if card is None:
        text = f"unknown; {known_names(preset.model, catalog.cards)}"
        return [*bad, Violation(f"{path}.model", text)]
    if kind != card.kind:
        text = f"{card.name} makes {card.kind}s: fill in {card.kind}"
        return [*bad, Violation(f"{path}.spec", text)]
    spec = preset.video if kind == "video" else preset.image
    pictures = [name for name in _OF_A_REQUEST if _says(spec, name)]
    for name in pictures:
        text = "is a request's own and has no place in a preset: leave it out"
        bad.append(Violation(f"{path}.{kind}.{name}", text))
    if spec.output.omit_metadata:
        text = "a request could not take it back: leave it out, and say it in requests"
        bad.append(Violation(f"{path}.{kind}.output.omit_metadata", text))
    # Checked as if it were a request that leaves all else to the model.
    request = generation_pb2.CreateGenerationRequest(model=preset.model)
    whole = request.video if kind == "video" else request.image
    whole.MergeFrom(spec)  # type: ignore[arg-type]  # both are of this kind
    for name in pictures:
        whole.ClearField(name)  # type: ignore[arg-type]
    whole.prompt = whole.prompt or "anything"
    if preset.image.HasField("strength") and offers.takes_images(card):
        request.image.init_image.object_key = input_key(tenant, "0" * 64, "png")
    reader = SpecReader(card, tenant)
    reader.read(request, f"{path}.", lambda: 0)
    return bad + reader.bad
