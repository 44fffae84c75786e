"""Requests made up from their descriptors, and bytes that are nearly such. Pure: chance is an
argument, so that Hypothesis may be it (and make a case that fails smaller), or a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.fuzz.values import Seen, likely, wild

DEEPEST = 6
WAYS = ("right", "near", "near", "mixed", "wild", "bent", "noise")
# What a request cannot do without. Of messages that are not here any field may be there.
NEEDED = {
    "CreateGenerationRequest": {"model", "image"},
    "GenerateRequest": {"create"},
    "ImageSpec": {"prompt"},
    "ListGenerationsRequest": {"page_size", "page_token"},
    "ListDeliveriesRequest": {"page_size", "page_token"},
    "ListPresetsRequest": {"page_size", "page_token"},
    "Preset": {"model", "name", "image"},
    "CreateWebhookRequest": {"url"},
    "UpdateWebhookRequest": {"id", "url"},
}
# What is there half of the time.
OFTEN = {
    "CreateGenerationRequest": {"request_id", "preset", "labels", "priority", "deadline"},
    "ImageSpec": {"width", "steps", "guidance", "seed", "sampler", "output"},
    "Preset": {"etag", "shared"},
}


@dataclass(frozen=True)
class Mood:
    """How a message is made up: the share of values that may well be taken, and of fields that are
    there though nothing needs them."""

    trust: float
    more: float


MOODS = {
    "right": Mood(1.0, 0.0),
    "near": Mood(0.93, 0.05),
    "mixed": Mood(0.7, 0.4),
    "wild": Mood(0.1, 0.6),
    "bent": Mood(1.0, 0.05),
}


def body(rng: Random, way: str, described: Descriptor, seen: Seen) -> bytes:
    """A request's bytes.

    Args:
        way: right: what a caller sends; near: with a little of it wrong; mixed; wild: hardly a
            value that may be taken; bent: bytes of a message, changed, so that they may be none;
            noise: any bytes.
    """
    if way == "noise":
        return rng.randbytes(rng.choice([0, 1, 2, 10, 100, 5_000]))
    made = message(rng, described, seen, MOODS[way]).SerializeToString()
    return bent(rng, made) if way == "bent" else made


def message(
    rng: Random, described: Descriptor, seen: Seen, mood: Mood, *, depth: int = 0
) -> Message:
    """A message of a mood."""
    made: Message = GetMessageClass(described)()
    for field in described.fields:
        if rng.random() >= _chance(described.name, field.name, mood):
            continue
        if field.message_type and depth >= DEEPEST:
            continue

        def value(field: Field = field) -> Any:
            if field.message_type:
                return message(rng, field.message_type, seen, mood, depth=depth + 1)
            return likely(rng, field, seen) if rng.random() < mood.trust else wild(rng, field)

        _set(rng, made, field, value)
    return made


def _chance(owner: str, field: str, mood: Mood) -> float:
    """That a field is there."""
    if field in NEEDED.get(owner, ()):
        return 1.0
    if field in OFTEN.get(owner, ()):
        return 0.5
    return mood.more if owner in NEEDED else 0.8


def _set(rng: Random, made: Message, field: Field, value: Callable[[], Any]) -> None:
    if field.message_type and field.message_type.GetOptions().map_entry:
        _fill_map(rng, getattr(made, field.name), value)
    elif field.is_repeated:
        many = rng.choice([0, 1, 1, 2, 3, 30]) if rng.random() < 0.98 else rng.choice([200, 1_001])
        several = getattr(made, field.name)
        few = [value() for _ in range(min(many, 5))]
        several.extend(few[i % len(few)] for i in range(many))
    elif field.message_type:
        getattr(made, field.name).CopyFrom(value())
    else:
        setattr(made, field.name, value())


def _fill_map(rng: Random, entries: Any, value: Callable[[], Any]) -> None:
    for _ in range(rng.choice([0, 1, 2, 17])):
        entry = value()
        if hasattr(entries, "get_or_create"):
            entries[entry.key].CopyFrom(entry.value)
        else:
            entries[entry.key] = entry.value


def bent(rng: Random, sent: bytes) -> bytes:
    """Bytes with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(sent))
        span = at + rng.choice([1, 1, 2, 8, 100])
        match rng.randrange(8):
            case 0 if sent:
                at %= len(sent)
                sent = sent[:at] + bytes([sent[at] ^ 1 << rng.randrange(8)]) + sent[at + 1 :]
            case 1:
                sent = sent[:at] + rng.randbytes(rng.choice([1, 2, 10])) + sent[at:]
            case 2:
                sent = sent[:at] + sent[span:]
            case 3:
                sent = sent[:at]
            case 4:
                sent = sent[:span] + sent[at:]
            case 5:  # a field that is in no contract, or is of another kind there
                sent += _unknown_field(rng)
            case 6:  # both of a oneof, each field twice
                sent += sent
            case 7:
                sent += rng.choice(
                    [b"\x0b" * 200, _nested(300), b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 11]
                )
    return sent


def _unknown_field(rng: Random) -> bytes:
    number, kind = rng.choice([1, 2, 3, 15, 100, 536_870_911]), rng.choice([0, 1, 2, 5])
    content = {0: _varint(rng.getrandbits(64)), 1: rng.randbytes(8), 5: rng.randbytes(4)}
    text = rng.randbytes(rng.choice([0, 3, 3_000]))
    return _varint(number << 3 | kind) + content.get(kind, _varint(len(text)) + text)


def _nested(depth: int) -> bytes:
    """Field 1 in field 1 in field 1."""
    made = b""
    for _ in range(depth):
        made = b"\x0a" + _varint(len(made)) + made
    return made


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])
