"""The checker must complain: of each promise a history that breaks it, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.checker import (
    Evidence,
    File,
    Happened,
    Row,
    complaints,
    lost,
    published_twice,
)
from tests.faults.history import FAIL, INVOKE, OK, UNKNOWN, History, Told, read

FILE = File("results/local/g1/7/0.png", 100, "ab")
ROW = Row("g1", "k1", "SUCCEEDED", 1, (FILE,))
TOLD = (
    Told(0.0, "c0", "create", INVOKE, "k1"),
    Told(1.0, "c0", "create", OK, "k1", "g1", "QUEUED"),
    Told(5.0, "c0", "get", OK, "k1", "g1", "SUCCEEDED", result_keys=(FILE.key,)),
)
EVENTS = (
    Happened("g1", 1, "submit", 0, 0.5),
    Happened("g1", 2, "claim", 1, 2.0),
    Happened("g1", 3, "publish", 1, 3.0),
)
OBJECTS = {FILE.key: (100, "ab")}
GOOD = Evidence(TOLD, [ROW], EVENTS, OBJECTS, {("g1", "SUCCEEDED")})


def test_a_good_run_passes() -> None:
    assert complaints(GOOD) == []
    assert lost(GOOD) == published_twice(GOOD) == 0


def test_unknown_calls_may_have_happened_or_not() -> None:
    unknown = Told(1.0, "c1", "create", UNKNOWN, "k2")
    assert complaints(replace(GOOD, told=(*TOLD, unknown))) == []
    row = Row("g2", "k2", "FAILED", 0)
    events = (*EVENTS, Happened("g2", 4, "submit", 0, 1.0), Happened("g2", 5, "fail", 0, 2.0))
    happened = replace(
        GOOD,
        told=(*TOLD, unknown),
        rows=[ROW, row],
        events=events,
        heard={("g1", "SUCCEEDED"), ("g2", "FAILED")},
    )
    assert complaints(happened) == []


def told(*more: Told) -> Evidence:
    return replace(GOOD, told=(*TOLD, *more))


def life(*events: tuple[str, int], state: str = "SUCCEEDED", attempt: int = 1) -> Evidence:
    happened = [Happened("g1", n, name, at, n / 10) for n, (name, at) in enumerate(events)]
    row = replace(ROW, state=state, attempt=attempt)
    return replace(GOOD, told=TOLD[:2], rows=[row], events=happened)


BAD = {
    "acknowledged and gone": (replace(GOOD, rows=[], events=()), "P1"),
    "acknowledged and left running": (
        replace(GOOD, told=TOLD[:2], rows=[Row("g1", "k1", "RUNNING", 1)], events=EVENTS[:2]),
        "P1",
    ),
    "left over, though nobody heard of it": (
        replace(GOOD, rows=[ROW, Row("g2", "k2", "QUEUED", 0)]),
        "P1",
    ),
    "two ids told for a key": (told(Told(2.0, "c1", "create", OK, "k1", "g2")), "P2"),
    "two rows for a key": (replace(GOOD, rows=[ROW, replace(ROW, id="g2")]), "P2"),
    "refused and made": (
        replace(GOOD, told=[Told(1.0, "c0", "create", FAIL, "k1", code="INVALID_ARGUMENT")]),
        "P2",
    ),
    "made for nobody": (replace(GOOD, rows=[replace(ROW, request_id="other")]), "P2"),
    "no object": (replace(GOOD, objects={}), "P3"),
    "an object of another size": (replace(GOOD, objects={FILE.key: (99, "ab")}), "P3"),
    "other bytes": (replace(GOOD, objects={FILE.key: (100, "cd")}), "P3"),
    "succeeded with nothing": (replace(GOOD, rows=[replace(ROW, results=())]), "P3"),
    "published twice": (life(("submit", 0), ("claim", 1), ("publish", 1), ("publish", 1)), "P3"),
    "a client saw other results": (
        told(Told(6.0, "c1", "get", OK, "k1", "g1", "SUCCEEDED", result_keys=("x",))),
        "P3",
    ),
    "moved after its end": (life(("submit", 0), ("claim", 1), ("publish", 1), ("claim", 2)), "P5"),
    "an attempt is missing": (life(("submit", 0), ("claim", 2), ("publish", 2), attempt=2), "P5"),
    "an event is missing": (life(("submit", 0), ("publish", 1)), "P5"),
    "begins nowhere": (life(("claim", 1), ("publish", 1)), "P5"),
    "ends as something else": (
        life(("submit", 0), ("claim", 1), ("fail", 1), state="CANCELLED"),
        "P5",
    ),
    "a final state changed": (told(Told(4.0, "c1", "get", OK, "k1", "g1", "CANCELLED")), "P5"),
    "a cancel was taken back": (
        replace(
            GOOD,
            told=(*TOLD[:2], Told(1.5, "c0", "cancel", OK, "k1", "g1", "CANCELLED")),
        ),
        "P5",
    ),
    "claimed after its cancel": (
        told(Told(1.5, "c0", "cancel", OK, "k1", "g1", "QUEUED")),
        "P6",
    ),
    "an end that no receiver was told of": (replace(GOOD, heard=()), "P12"),
    "an end that never was, and was told": (
        replace(GOOD, heard={("g1", "SUCCEEDED"), ("g1", "FAILED")}),
        "P12",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_it_complains(name: str) -> None:
    evidence, promise = BAD[name]
    found = complaints(evidence)
    assert any(line.startswith(promise) for line in found), found


def test_it_counts() -> None:
    assert lost(BAD["acknowledged and gone"][0]) == 1
    assert published_twice(BAD["published twice"][0]) == 1


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        history.add("c0", "create", INVOKE, key="k1")
        history.add("c0", "get", OK, key="k1", id="g1", state="SUCCEEDED", result_keys=(FILE.key,))
    assert read(tmp_path / "history.jsonl") == history.told
    assert history.count("get", OK) == 1
