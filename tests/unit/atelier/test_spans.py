"""What is taken for a caller's span, and the ids that hang a trace below it."""

from __future__ import annotations

import pytest

from atelier.spans import Parent, about, parent_of, span_id_of, trace_id_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ID = "0199f8a2-7c1d-7000-8000-000000000001"


def test_a_caller_s_span_is_read() -> None:
    assert parent_of(f"00-{TRACE}-{SPAN}-01") == Parent(int(TRACE, 16), int(SPAN, 16), True)
    assert parent_of(f"00-{TRACE}-{SPAN}-00") == Parent(int(TRACE, 16), int(SPAN, 16), False)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01" * 10_000,
    ],
)
def test_what_is_none_is_none(header: str) -> None:
    assert parent_of(header) is None
    assert trace_id_of(ID, header) == int(ID.replace("-", ""), 16)


def test_a_trace_is_the_caller_s_and_span_ids_are_the_same_everywhere() -> None:
    assert trace_id_of(ID, f"00-{TRACE}-{SPAN}-00") == int(TRACE, 16)
    assert span_id_of(ID, "attempt 1") == span_id_of(ID, "attempt 1") > 0
    assert span_id_of(ID, "attempt 1") != span_id_of(ID, "attempt 2")
    assert span_id_of(ID, "attempt 1") < 2**64


def test_a_line_of_the_log_is_found_by_all_of_its_names() -> None:
    generation_id = "0197aaaa-0000-7000-8000-000000000001"
    found = about(generation_id, "acme", "")
    assert found["trace_id"] == generation_id.replace("-", "")
    assert (found["generation_id"], found["tenant"]) == (generation_id, "acme")
    assert about("none of ours", "acme", "") == {"generation_id": "none of ours", "tenant": "acme"}
