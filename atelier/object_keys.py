"""Keys of objects, all made here, by tenant. Pure.

    inputs/{tenant}/{sha256}.{suffix}                           a picture that a caller brought
    results/{tenant}/{generation_id}/{lease_token}/{file name}  what an attempt made
    checkpoints/{tenant}/{generation_id}                        where an attempt left off

A result that went into the secondary store says so in its key, and has that key in either store:

    results/{tenant}/{generation_id}/{lease_token}/secondary/{file name}

A tenant's name is quoted, dots too, so that it is one folder and never a parent of one.
"""

from __future__ import annotations

import re
from urllib.parse import quote

# What lies in a tenant's folder: file names and folders of ours, none of which begins with a dot.
_WITHIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SECONDARY = "secondary"
MAX_KEY_CHARACTERS = 1_024  # as S3 has it


def input_key(tenant: str, sha256: str, suffix: str) -> str:
    """Of a picture that a caller brought, by its content: the same file has the same key."""
    return f"inputs/{_quoted(tenant)}/{sha256}.{suffix}"


def result_key(tenant: str, generation_id: str, lease_token: int, name: str) -> str:
    """Of a file that an attempt made; two attempts never share one."""
    return f"results/{_quoted(tenant)}/{generation_id}/{lease_token}/{name}"


def checkpoint_key(tenant: str, generation_id: str) -> str:
    """Of where a generation left off."""
    return f"checkpoints/{_quoted(tenant)}/{generation_id}"


def in_secondary(key: str) -> str:
    """What `key` is called in the secondary store; of what is no result, the same. A result that is
    called so already stays as it is."""
    if not key.startswith("results/") or names_secondary(key):
        return key
    folder, _, name = key.rpartition("/")
    return f"{folder}/{_SECONDARY}/{name}"


def names_secondary(key: str) -> bool:
    """Whether this is a result that was written to the secondary store."""
    return key.startswith("results/") and key.split("/")[-2] == _SECONDARY


def generation_of(key: str) -> str:
    """The id of the generation whose result or checkpoint this is; "" where it has none."""
    folder, _, rest = key.partition("/")
    generation = rest.split("/")[1:2] if folder in ("results", "checkpoints") else []
    return generation[0] if generation and _UUID.fullmatch(generation[0]) else ""


def is_own(tenant: str, key: str) -> bool:
    """Whether `key` can be that of a result or an input of this tenant."""
    if len(key) > MAX_KEY_CHARACTERS:
        return False
    for folder in ("results", "inputs"):
        own = f"{folder}/{_quoted(tenant)}/"
        if key.startswith(own):
            return _WITHIN.fullmatch(key, len(own)) is not None
    return False


def _quoted(tenant: str) -> str:
    return quote(tenant, safe="").replace(".", "%2E")
