"""The judge is judged: what no caller should see must be complained of, what is documented not."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.fuzz.verdict import wrong_with


def status(
    reason: str, *, domain: str = "atelier", fields: bool = False, retry: bool = False
) -> status_pb2.Status:
    made = status_pb2.Status()
    made.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    if fields:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field="id", description="must be one")
        made.details.add().Pack(bad)
    if retry:
        made.details.add().Pack(error_details_pb2.RetryInfo())
    return made


@pytest.mark.parametrize(
    ("code", "words", "details"),
    [
        ("OK", "", None),
        ("NOT_FOUND", "no such generation", status("NOT_FOUND")),
        ("INVALID_ARGUMENT", "id: must be one", status("INVALID_ARGUMENT", fields=True)),
        ("RESOURCE_EXHAUSTED", "come again", status("QUEUE_FULL", retry=True)),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 8)", None),
        ("UNAVAILABLE", "away", status("OBJECT_STORE_UNAVAILABLE", retry=True)),
    ],
)
def test_what_is_documented_is_taken(
    code: str, words: str, details: status_pb2.Status | None
) -> None:
    assert wrong_with(code, words, details, away=["OBJECT_STORE_UNAVAILABLE"]) == ""


@pytest.mark.parametrize(
    ("code", "words", "details"),
    [
        ("INTERNAL", "internal error, id=1", status("INTERNAL")),
        ("UNKNOWN", "Unexpected <class 'TypeError'>", None),
        ("DEADLINE_EXCEEDED", "", None),
        ("CANCELLED", "", None),
        ("NOT_FOUND", "nothing here", None),
        ("NOT_FOUND", "", status("NOTHING")),
        ("INVALID_ARGUMENT", "", status("NOT_FOUND")),
        ("INVALID_ARGUMENT", "", status("INVALID_ARGUMENT")),
        ("NOT_FOUND", "", status("NOT_FOUND", domain="else")),
        ("NOT_FOUND", "", status("NOT_FOUND", retry=True)),
        ("RESOURCE_EXHAUSTED", "", status("QUEUE_FULL")),
        ("UNAVAILABLE", "", status("UNAVAILABLE", retry=True)),
        ("NOT_FOUND", 'File "store", line 3', status("NOT_FOUND")),
        ("NOT_FOUND", "x" * 9_000, status("NOT_FOUND")),
    ],
)
def test_all_else_is_complained_of(
    code: str, words: str, details: status_pb2.Status | None
) -> None:
    assert wrong_with(code, words, details)


def test_only_our_own_parts_may_be_told_of_our_faults() -> None:
    told = "internal error, id=1", status("INTERNAL")
    assert wrong_with("INTERNAL", *told) and not wrong_with("INTERNAL", *told, trusting=True)
    assert wrong_with("INTERNAL", "a trace", status("INTERNAL"), trusting=True)
