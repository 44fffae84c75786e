"""Whether an answer is one that docs/api.md tells of. Pure."""

from __future__ import annotations

from collections.abc import Collection

from google.rpc import error_details_pb2, status_pb2

from tests.support.error_table import OF_CALLS

# Words of our insides, which no caller is told.
INSIDES = ("Traceback", 'File "', ".py", "psycopg", "site-packages", "Exception")
MOST_WORDS = 8_000  # characters of a message


def wrong_with(
    code: str,
    words: str,
    status: status_pb2.Status | None,
    away: Collection[str] = (),
    *,
    trusting: bool = False,
) -> str:
    """What is wrong with the end of a call; empty: nothing.

    Args:
        code: gRPC's, by name.
        words: what the caller is told.
        status: the details, where there are some.
        away: reasons of UNAVAILABLE that are no surprise here.
        trusting: its callers are parts of ours; what they get wrong may be told as a fault of ours,
            by a number.
    """
    if code == "OK" or (trusting and code == "INTERNAL" and _is_by_number(words, status)):
        return ""
    if code == "DEADLINE_EXCEEDED":
        return "it was not answered in time"
    if code in ("INTERNAL", "UNKNOWN", "UNIMPLEMENTED", "CANCELLED"):
        return f"{code}: {words[:300]}"
    if told := [word for word in INSIDES if word in words]:
        return f"it tells of our insides: {told}"
    if len(words) > MOST_WORDS:
        return f"a message of {len(words)} characters"
    if status is None:
        known = code == "RESOURCE_EXHAUSTED" and "larger than max" in words
        return "" if known else f"{code} without details: {words[:300]}"
    return _wrong_details(code, status, away)


def _is_by_number(words: str, status: status_pb2.Status | None) -> bool:
    known = words.startswith("internal error, id=") or words == "the database refuses these values"
    return known and status is not None


def _wrong_details(code: str, status: status_pb2.Status, away: Collection[str]) -> str:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(bad)
    row = OF_CALLS.get(info.reason)
    if row is None or row.code != code:
        return f"{code}, {info.reason or 'no reason'}: not in docs/api.md"
    if info.domain != "atelier":
        return f"the domain is {info.domain!r}"
    if (row.again == "yes" and not retry) or (row.again == "no" and retry):
        return f"{info.reason}: RetryInfo is {'there' if retry else 'missing'}"
    if info.reason == "INVALID_ARGUMENT" and not all(
        (bad.field_violations, *(v.field and v.description for v in bad.field_violations))
    ):
        return "INVALID_ARGUMENT names no field"
    if code == "UNAVAILABLE" and info.reason not in away:
        return f"UNAVAILABLE, {info.reason}: {status.message[:300]}"
    return ""
