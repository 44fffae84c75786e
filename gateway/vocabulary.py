"""What can be said to a model: every field of its spec, with its bounds, default and choices; and
what is said that nobody here knows. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from atelier.catalog import ModelCard
from atelier.errors import Violation
from atelier.output import DEFAULT_QUALITY, LARGEST_THUMBNAIL, LEAST_THUMBNAIL, MAX_SIDE
from atelier.spec import MAX_PROMPT_CHARACTERS, MAX_SEED
from atelier.v1 import generation_pb2
from atelier.v1 import model_pb2 as pb
from gateway import offers

_TYPES = {
    FieldDescriptor.CPPTYPE_STRING: pb.PARAMETER_TYPE_TEXT,
    FieldDescriptor.CPPTYPE_ENUM: pb.PARAMETER_TYPE_CHOICE,
    FieldDescriptor.CPPTYPE_BOOL: pb.PARAMETER_TYPE_SWITCH,
    FieldDescriptor.CPPTYPE_DOUBLE: pb.PARAMETER_TYPE_NUMBER,
    FieldDescriptor.CPPTYPE_INT32: pb.PARAMETER_TYPE_INTEGER,
    FieldDescriptor.CPPTYPE_INT64: pb.PARAMETER_TYPE_INTEGER,
}
# Bounds that no card tells, because they are the same for all models; pixels.
_BOUNDS = {
    "output.thumbnail_size": (LEAST_THUMBNAIL, LARGEST_THUMBNAIL),
    "output.crop.x": (0, None),
    "output.crop.y": (0, None),
    "output.crop.width": (1, None),
    "output.crop.height": (1, None),
    "output.resize.width": (1, MAX_SIDE),
    "output.resize.height": (1, MAX_SIDE),
}
_NEEDS = {
    "mask_image": ["init_image"],
    "strength": ["init_image"],
    "output.quality": ["output.format"],  # another than the first, which has none
}
_NUMBERED_SHOWN = 5


def parameters_of(card: ModelCard) -> list[pb.Parameter]:
    """Every field that the model's spec may have, in the contract's order. A test gives each field
    of both specs to each kind of model: what is not here is refused, what is here is not."""
    video = card.kind == "video"
    spec = generation_pb2.VideoSpec.DESCRIPTOR if video else generation_pb2.ImageSpec.DESCRIPTOR
    found = []
    for path, field in _leaves(spec):
        if path in _not_taken(card):
            continue
        parameter = pb.Parameter(field=path, type=_type(field), needs=_NEEDS.get(path, []))
        _describe(parameter, field, card)
        found.append(parameter)
    return found


def _leaves(message: Descriptor, path: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    for field in message.fields:
        name = f"{path}{field.name}"
        if field.message_type and field.message_type.name != "InputImage":
            yield from _leaves(field.message_type, f"{name}.")
        else:
            yield name, field


def _type(field: FieldDescriptor) -> pb.ParameterType.ValueType:
    if field.message_type:
        return pb.PARAMETER_TYPE_PICTURE
    return pb.PARAMETER_TYPE_CHOICE if field.name == "sampler" else _TYPES[field.cpp_type]


def _not_taken(card: ModelCard) -> set[str]:
    absent = set()
    if not offers.takes_images(card):
        absent |= {"init_image", "mask_image", "strength"}
    if not offers.takes_first_frame(card):
        absent.add("first_frame")
    if not offers.has_previews(card):
        absent.add("preview_every")
    return absent


def _describe(parameter: pb.Parameter, field: FieldDescriptor, card: ModelCard) -> None:
    path = parameter.field
    if limit := (offers.strength_limit(card) if path == "strength" else card.limits.get(path)):
        parameter.minimum, parameter.maximum = limit.minimum, limit.maximum
        parameter.unit = limit.unit
        parameter.default_number = limit.default
        if limit.multiple_of:
            parameter.multiple_of = limit.multiple_of
        return
    match path:
        case "prompt" | "negative_prompt":
            parameter.required = path == "prompt"
            parameter.minimum, parameter.maximum = int(parameter.required), MAX_PROMPT_CHARACTERS
            parameter.unit = "characters"
        case "seed":
            parameter.minimum, parameter.maximum = 0, MAX_SEED
        case "preview_every":
            parameter.minimum, parameter.maximum = 1, card.limits["steps"].maximum
            parameter.unit = "steps"
        case "sampler":
            parameter.choices.extend(card.samplers)
            parameter.default_choice = card.default_sampler
        case "output.quality":
            parameter.minimum, parameter.maximum, parameter.default_number = 1, 100, DEFAULT_QUALITY
        case _ if field.enum_type:
            parameter.choices.extend(value.name for value in field.enum_type.values[1:])
            parameter.default_choice = field.enum_type.values[1].name
        case _ if path in _BOUNDS:
            least, most = _BOUNDS[path]
            parameter.minimum, parameter.unit = least, "pixels"
            if most:
                parameter.maximum = most


def unknown_fields(message: Message, path: str = "") -> list[Violation]:
    """Fields that are in a message and not in its contract: a caller's who was built with a later
    one. To leave them out unasked would make something else than was wanted."""
    bad = []
    unknown: Any = UnknownFieldSet(message)
    numbers = sorted({field.field_number for field in unknown})
    if numbers:
        told = ", ".join(str(number) for number in numbers[:_NUMBERED_SHOWN])
        where = path.removesuffix(".") or message.DESCRIPTOR.name
        text = f"has what this service does not know (field number {told}):"
        bad.append(Violation(where, f"{text} leave it out, or ask a later version"))
    for field, value in message.ListFields():
        if isinstance(value, Message):
            bad += unknown_fields(value, f"{path}{field.name}.")
    return bad
