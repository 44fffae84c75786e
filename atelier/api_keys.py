"""API keys as callers carry them. Pure.

    atk_03kTMd9W1xQ0a_<43 of base62: 256 random bits>_<8 hexadecimal: CRC-32 of all before it>

The prefix and the sum let a scanner of secrets, and the gateway, tell a key from other text without
asking anybody. The id is public: lists and logs name a key by it. The rest is never kept: what is
stored, and compared, is its SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from zlib import crc32

from atelier.errors import Violation

PREFIX = "atk"
SECRET_BYTES, ID_BYTES = 32, 9
SCOPES = ("generate", "read", "admin")
TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
KEY_ID = re.compile(r"[0-9A-Za-z]{13}")

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(rf"({PREFIX}_({KEY_ID.pattern})_[0-9A-Za-z]{{43}})_([0-9a-f]{{8}})")


@dataclass(frozen=True)
class ShownKey:
    """A key that somebody carries; its repr does not tell it."""

    id: str
    secret_hash: bytes = field(repr=False)

    def is_that_of(self, stored_hash: bytes) -> bool:
        """Whether the stored key has this secret; takes as long whatever the answer."""
        return hmac.compare_digest(self.secret_hash, stored_hash)


def new_key(id_bytes: bytes, secret: bytes) -> str:
    """A key's text, of ID_BYTES and SECRET_BYTES that were drawn by chance."""
    body = f"{PREFIX}_{_base62(id_bytes, 13)}_{_base62(secret, 43)}"
    return f"{body}_{crc32(body.encode()):08x}"


def read_key(text: str) -> ShownKey | None:
    """What a key's text says; None where it is none, or was cut or mistyped."""
    match = _KEY.fullmatch(text)
    if match is None or f"{crc32(match[1].encode()):08x}" != match[3]:
        return None
    return ShownKey(match[2], hashlib.sha256(text.encode()).digest())


def _base62(data: bytes, length: int) -> str:
    number, digits = int.from_bytes(data, "big"), []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def tenant_violations(name: str, field: str = "tenant") -> list[Violation]:
    """What is wrong with a tenant's name."""
    if TENANT.fullmatch(name):
        return []
    return [Violation(field, "must be 1 to 63 of a-z, 0-9, _ and -, no mark first")]
