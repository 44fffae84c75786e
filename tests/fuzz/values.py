"""Values for fields: some that a caller may well send, and some that nobody should. Pure: chance is
an argument, and so is what was seen in answers."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

REMEMBERED = 50  # values of a field's name

# What a field of this name may well hold. Others: what answers held, or one of the wild ones.
LIKELY: dict[str, list[Any]] = {
    "model": ["toy"],
    "models": ["toy"],
    "prompt": ["a ring", "ein Ring, größer", "戒指 💍"],
    "sampler": ["", "ddim", "euler"],
    "width": [64, 72, 128],
    "height": [64, 72, 128],
    "steps": [1, 8, 100],
    "count": [1, 2, 8],
    "guidance": [1.0, 1.5, 10.0],
    "strength": [0.1, 1.0],
    "preset": ["", "draft", "ink", "shared/ink", "ink@1"],
    "name": ["ink", "paper", "draft", "toy"],
    "request_id": ["", "r1", "r2"],
    "key": ["a", "b"],
    "seconds": [4_000_000_000],
    "nanos": [0],
    "tenant": ["acme", "local"],
    "scopes": ["read", "generate", "admin"],
    "url": ["http://127.0.0.1:9/", "https://127.0.0.1/hook"],
    "webhook_url": ["", "", "http://127.0.0.1:9/"],
    "node": ["n0"],
    "device_id": ["d0"],
    "trace_parent": ["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    "page_size": [0, 1, 2, 1_000],
    "limit": [1, 2, 1_000],
    "page_token": [""],
    "overlap_seconds": [0, 60],
    "expire_days": [0, 1, 365],
    "quality": [1, 90, 100],
    "thumbnail_size": [16, 64],
    "secret_hash": [bytes(32)],
    "request_hash": [bytes(32)],
}
# Where an answer tells the value that a request's field of this name takes. `id` is whose the
# request's name says, by the first of these words that is in it.
TOLD = {
    "generation_id": "Generation.id",
    "webhook_id": "Webhook.id",
    "etag": "Preset.etag",
    "object_key": "Result.object_key",
}
IDS = {
    "RedeliverWebhook": "Delivery.id",
    "Webhook": "Webhook.id",
    "Secret": "Webhook.id",
    "Key": "ApiKey.id",
    "": "Generation.id",
}

TEXTS = [
    "", " ", "\0", "a\0b", "\n\r\t", "\x1b[31mred\x1b[0m", "\u202eevil\u202c", "\u200b\u200d\ufeff",
    "e" + "\u0301" * 500, "\ufffd\uffff\U0010ffff", "👩‍👩‍👧‍👦", "ﷺ" * 50, "İıſK", "é", "e\u0301",
    "../../etc/passwd", "/", ".", "..%2f", "CON", "'; DROP TABLE generations; --", "%s%n%x", "{0}",
    "{tenant}", "${jndi:ldap://x}", "<script>", "null", "NaN", "-1", "1e309", "True", "a" * 64,
    "a" * 129, "a" * 4_001, "😀" * 4_001, "00000000-0000-0000-0000-000000000000",
    "019f3c3a-0000-7000-8000-000000000000", "019F3C3A-0000-7000-8000-000000000000",
    "{019f3c3a-0000-7000-8000-000000000000}", "019f3c3a-0000-7000-8000-00000000000",
    "019f3c3a-0000-4000-8000-000000000000", "inputs/acme/x.png", "results/local/../x/0.png",
    "s3://bucket/key", "http://", "http://[::1]:1/", "http://127.0.0.1:99999/", "ftp://127.0.0.1/",
    "http://169.254.169.254/", "http://a b/", "//x", "http://\u2100/", "http://" + "a" * 300,
    "eyJiZWZvcmUiOjF9", "bnVsbA==", "W10=", "MQ==", "====", "toy@1", "shared/", "shared/shared/ink",
    "ink@0", "ink@99999999999999999999", "ink@-1", "@", "1", "0", "99999999999999999999",
]  # fmt: skip
BYTES = [
    b"",
    b"\0",
    b"\xff" * 32,
    bytes(31),
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\0\0\0\0WEBP",
]
REALS = [
    0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, -1.0, 1e308, 0.1, 1.0, 2**53 + 1.0, 1.5,
]  # fmt: skip


class Seen:
    """The latest values of answers' fields, by MESSAGE.FIELD: ids, and tokens that hold."""

    def __init__(self) -> None:
        self._told: dict[str, deque[Any]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def note(self, answer: Message) -> None:
        for field, value in answer.ListFields():
            if field.message_type and field.message_type.GetOptions().map_entry:
                continue
            for one in value if field.is_repeated else [value]:
                if field.message_type:
                    self.note(one)
                elif field.type == Field.TYPE_STRING:
                    self._told[f"{field.containing_type.name}.{field.name}"].append(one)

    def of(self, field: Field) -> list[str]:
        """What may be meant by a request's field."""
        asked = field.containing_type.name
        told = TOLD.get(field.name, "")
        if field.name == "id":
            told = next(named for word, named in IDS.items() if word in asked)
        elif field.name == "page_token":
            told = asked.removesuffix("Request") + "Response.next_page_token"
        return list(self._told[told])


def likely(rng: Random, field: Field, seen: Seen) -> Any:
    """A value that may well be taken."""
    kind = field.cpp_type
    fits = [one for one in LIKELY.get(field.name, ()) if _fits(one, kind, field)]
    if kind == Field.CPPTYPE_STRING and field.type == Field.TYPE_STRING:
        fits = (seen.of(field) if not fits or rng.random() < 0.5 else []) or fits
    if fits:
        return rng.choice(fits)
    if kind == Field.CPPTYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if kind == Field.CPPTYPE_STRING:
        return b"" if field.type == Field.TYPE_BYTES else rng.choice(["", "a"])
    if kind == Field.CPPTYPE_BOOL:
        return rng.random() < 0.5
    return float(rng.random()) if kind in _REAL else rng.randrange(10)


def wild(rng: Random, field: Field) -> Any:
    """A value that is none of those."""
    match field.cpp_type:
        case Field.CPPTYPE_STRING if field.type == Field.TYPE_BYTES:
            return rng.choice([*BYTES, rng.randbytes(rng.randrange(300))])
        case Field.CPPTYPE_STRING:
            return _text(rng)
        case Field.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case Field.CPPTYPE_ENUM:
            return rng.choice([-1, 99, 2**31 - 1, -(2**31), rng.randrange(10)])
        case Field.CPPTYPE_DOUBLE:
            return rng.choice([*REALS, rng.uniform(-1e6, 1e6)])
        case Field.CPPTYPE_FLOAT:
            return rng.choice([0.0, math.nan, math.inf, -1.0, 3e38])
    low, high = _BOUNDS[field.cpp_type]
    edges = [low, low + 1, high, high - 1, 0, 1, 7, 253_402_300_800, -62_135_596_801]
    return rng.choice([one for one in edges if low <= one <= high] + [rng.randint(low, high)])


_REAL = (Field.CPPTYPE_DOUBLE, Field.CPPTYPE_FLOAT)
_BOUNDS = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def _fits(value: Any, kind: int, field: Field) -> bool:
    if kind == Field.CPPTYPE_STRING:
        return isinstance(value, bytes if field.type == Field.TYPE_BYTES else str)
    if kind in _REAL:
        return isinstance(value, float)
    if kind in _BOUNDS:
        low, high = _BOUNDS[kind]
        return isinstance(value, int) and low <= value <= high
    return False


def _text(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    if rng.random() < 0.02:
        return "x" * rng.choice([10_000, 100_000, 1_000_000])
    return "".join(_characters(rng))


def _characters(rng: Random) -> Iterator[str]:
    """Of every plane, without surrogates, which a protobuf's text cannot hold."""
    for _ in range(rng.randrange(40)):
        number = rng.choice([rng.randrange(128), rng.randrange(0xD800), rng.randrange(0x110000)])
        yield chr(number) if not 0xD800 <= number < 0xE000 else "?"
