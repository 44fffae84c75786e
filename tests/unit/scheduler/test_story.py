"""What is kept of a generation as the journal tells it, and the trace that is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from atelier.generation import Failure, Generation, State
from atelier.spans import Span
from atelier.v1 import generation_pb2 as v1
from scheduler.decisions import Bind, Load
from scheduler.journal import Journal
from scheduler.runqueue import Ticket
from scheduler.story import MOST_STEPS, Stories
from tests.support.generations import generation

START = datetime(2026, 11, 23, tzinfo=UTC)


class House:
    """A clock, a journal, and the traces of those that ended."""

    def __init__(self) -> None:
        self.now = START
        self.told: list[Sequence[Span]] = []
        self.journal = Journal(lambda: self.now)
        self.stories = Stories(lambda: self.now, lambda row, spans: self.told.append(spans))
        self.journal.listener = self.stories

    def after(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def runs(self, row: Generation, number: int, device: str) -> Generation:
        """It waited; now it is bound, claimed, and denoised."""
        ticket = Ticket(
            id=row.id, tenant=row.tenant, model=row.model, shape="64x64", rows=1, steps=4,
            level=1, submitted=0.0, slo=10.0,
        )  # fmt: skip
        self.journal.decided(Bind(ticket, device, "fits beside what runs"))
        self.after(0.1)
        row = replace(row, state=State.RUNNING, attempt=number, device=device, lease_token=number)
        self.journal.stood(row)
        for phase in (v1.PHASE_ENCODING_TEXT, v1.PHASE_DENOISING):
            self.journal.progressed(row, phase)
            self.after(0.5)
        self.stories.stepped(row.id, 3, 0.2)
        return row

    def queued(self, row: Generation, number: int, why: str) -> None:
        self.journal.left(row.id, why)
        self.journal.stood(replace(row, state=State.QUEUED, attempt=number))

    def end(self, row: Generation, **how: object) -> dict[str, Span]:
        """Its spans by name, the root first."""
        self.journal.stood(replace(row, **how))  # type: ignore[arg-type]
        [spans] = self.told
        named = {span.name: span for span in spans}
        assert len(named) == len(spans)
        assert all(span.parent in named for span in spans[1:])
        assert not len(self.stories)
        return named


def seconds(*spans: Span) -> float:
    return sum((span.end - span.start).total_seconds() for span in spans)


def below(spans: dict[str, Span], name: str) -> list[Span]:
    return [span for span in spans.values() if span.parent == name]


def test_a_preemption_and_a_retry_make_one_trace_whose_times_add_up() -> None:
    house = House()
    row = replace(generation(), create_time=house.now)
    house.after(0.15)
    house.stories.reached(row.id)
    house.after(0.05)
    house.journal.stood(row)
    house.journal.decided(Load(row.model, "gpu-0", (), "the most wanted"))
    house.after(3)
    house.journal.changed("gpu-0", row.model, resident=True)
    house.runs(row, 1, "gpu-0")
    house.queued(row, 1, "PREEMPTED")
    house.after(2)
    house.runs(row, 2, "gpu-1")
    house.queued(row, 2, "DEVICE_LOST")
    house.after(1)
    running = house.runs(row, 3, "gpu-0")
    for phase in (v1.PHASE_DECODING, v1.PHASE_UPLOADING):
        house.journal.progressed(running, phase)
        house.after(0.3)
    house.journal.published(row.id, encode_seconds=0.2)
    house.after(0.1)
    spans = house.end(running, state=State.SUCCEEDED)

    root = spans["generation"]
    assert [span.name for span in below(spans, "generation")] == [
        "admitted", "queued 1", "attempt 1", "queued 2", "attempt 2", "queued 3", "attempt 3",
    ]  # fmt: skip
    assert seconds(*below(spans, "generation")) == pytest.approx(seconds(root))
    assert seconds(root) == pytest.approx((house.now - START).total_seconds())
    at_the_door = below(spans, "admitted")
    assert [(s.title or s.name, s.part) for s in at_the_door] == [
        ("gateway", "gateway"), ("store", "scheduler"),
    ]  # fmt: skip
    assert [seconds(one) for one in at_the_door] == [pytest.approx(0.15), pytest.approx(0.05)]
    errors = [spans[f"attempt {n}"].error for n in (1, 2, 3)]
    assert (root.error, *errors) == ("", "PREEMPTED", "DEVICE_LOST", "")
    assert spans["queued 2"].after == ["attempt 1"]
    assert spans["attempt 3"].after == ["attempt 2"]
    [load] = below(spans, "queued 1")
    assert (load.title, seconds(load)) == ("load", 3.0)
    assert not below(spans, "queued 3")
    last = below(spans, "attempt 3")
    assert [s.title for s in last] == [
        "encode text", "denoise", "decode", "encode", "upload", "publish",
    ]  # fmt: skip
    assert seconds(last[3]) == pytest.approx(0.2) and seconds(last[4]) == pytest.approx(0.1)
    assert seconds(*last) == pytest.approx(seconds(spans["attempt 3"]))
    assert last[1].events[0][1:] == ("step", {"step": 3, "seconds": 0.2})
    assert not below(spans, "attempt 1")[0].events
    assert spans["queued 3"].attributes["atelier.why"] == "fits beside what runs"


def test_what_failed_says_why_in_its_root_and_its_last_attempt() -> None:
    house = House()
    row = replace(generation(), create_time=house.now)
    house.journal.stood(row)
    running = house.runs(row, 1, "gpu-0")
    failure = Failure("INTERNAL", "POISONED", "no")
    spans = house.end(running, state=State.FAILED, failure=failure)
    assert spans["generation"].error == spans["attempt 1"].error == "POISONED"


def test_what_expired_while_it_waited_is_an_error_of_nobody_s_attempt() -> None:
    house = House()
    row = replace(generation(), create_time=house.now)
    house.journal.stood(row)
    house.after(5)
    spans = house.end(row, state=State.EXPIRED)
    assert spans["generation"].error == "EXPIRED"
    assert spans["queued 1"].error == ""
    assert seconds(*below(spans, "generation")) == pytest.approx(5)


def test_one_that_another_scheduler_began_is_told_from_when_it_was_adopted() -> None:
    house = House()
    row = replace(
        generation(), create_time=START - timedelta(seconds=9), state=State.RUNNING, attempt=2,
        device="gpu-0",
    )  # fmt: skip
    house.after(1)
    house.journal.stood(row)
    house.after(4)
    spans = house.end(row, state=State.SUCCEEDED)
    assert [s.name for s in below(spans, "generation")] == ["admitted", "attempt 2"]
    assert spans["admitted"].title == "under another scheduler"
    assert seconds(*below(spans, "generation")) == pytest.approx(14)


def test_many_steps_are_thinned() -> None:
    house = House()
    row = replace(generation(), create_time=house.now)
    house.journal.stood(row)
    running = house.runs(row, 1, "gpu-0")
    for step in range(10_000):
        house.stories.stepped(row.id, step, 0.1)
    events = house.end(running, state=State.SUCCEEDED)["denoise 1"].events
    assert MOST_STEPS / 2 <= len(events) <= MOST_STEPS


def test_nothing_is_kept_of_what_has_ended() -> None:
    house = House()
    house.stories.stepped("gone", 1, 0.1)
    house.journal.published("gone")
    house.journal.stood(replace(generation(), state=State.CANCELLED))
    assert not house.told
    assert not len(house.stories)


def test_what_came_and_was_refused_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.story.MOST_COMING", 3)
    house = House()
    for number in range(10):
        house.stories.reached(str(number))
    assert [*house.stories._coming] == ["7", "8", "9"]
