"""`make fuzz-guided`: bytes that libFuzzer makes up, led by what of our checks they reach, given to
what reads requests in the gateway, in this process: anything but a refusal by field is a finding.

Atheris has 35 MB, so it is no dependency: make puts it into build/atheris. Where it finds something
it ends with a status that is not 0, and the bytes are in a file `crash-...`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["atelier", "gateway"]):
    from tests.fuzz.readers import KINDS, read

from google.protobuf.message import DecodeError


def one(data: bytes) -> None:
    """The first byte says which kind the others are."""
    if not data:
        return
    try:
        request = KINDS[data[0] % len(KINDS)].FromString(data[1:])
    except DecodeError:
        return  # told as UNREADABLE
    read(request)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
