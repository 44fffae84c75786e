"""What is counted of a generation's way, by its row and by the first estimate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from atelier.generation import Failure, Generation, State
from scheduler.decisions import Load, Preempt
from scheduler.measures import Measures, Names
from scheduler.runqueue import Ticket
from tests.support.generations import SPEC, generation

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Counted:
    """Measures over clocks that are set by hand, and what they told."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        live = cast(Any, SimpleNamespace(sched=SimpleNamespace(models={"toy": None})))
        self.measures = Measures(
            self._provider.get_meter("test"), live, Names(),
            clock=lambda: self.seconds,
            wall=lambda: BEGAN + timedelta(seconds=self.seconds),
        )  # fmt: skip

    def told(self, name: str) -> dict[tuple[Any, ...], float]:
        """Label values -> the value; of a histogram, the sum."""
        data: Any = self._reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        points = next(m.data.data_points for m in metrics if m.name == name)
        return {
            tuple(p.attributes.values()): getattr(p, "sum", getattr(p, "value", None))
            for p in points
        }


@pytest.fixture
def counted() -> Counted:
    return Counted()


def at(state: State, attempt: int, **more: object) -> Generation:
    """The same generation, further on; it began to run after 3 s."""
    start = BEGAN + timedelta(seconds=3) if attempt else None
    row: dict[str, object] = {"id": "g", "create_time": BEGAN, "start_time": start}
    return generation(**{**row, "state": state, "attempt": attempt, **more})


def test_a_wait_ends_with_the_first_attempt_alone(counted: Counted) -> None:
    stood = counted.measures.stood
    stood(at(State.QUEUED, 0))
    stood(at(State.QUEUED, 0))  # told twice
    stood(at(State.RUNNING, 1))
    stood(at(State.QUEUED, 1))  # and tried again
    stood(at(State.RUNNING, 2))
    assert counted.told("atelier.generations.submitted") == {("local", "NORMAL"): 1}
    assert counted.told("atelier.queue.wait") == {("local", "NORMAL"): 3.0}


def test_an_end_tells_why_and_how_long_it_took(counted: Counted) -> None:
    failed = Failure("INTERNAL", "POISONED", "it ended two Tritons")
    finish = BEGAN + timedelta(seconds=9)
    counted.measures.stood(at(State.FAILED, 1, failure=failed, finish_time=finish))
    assert counted.told("atelier.generations.ended") == {("local", "FAILED", "POISONED"): 1}
    assert counted.told("atelier.generation.duration") == {("toy", "FAILED"): 9.0}


def test_the_first_estimate_of_the_attempt_that_made_it_is_held_to_what_came(
    counted: Counted,
) -> None:
    running = at(State.RUNNING, 1)
    counted.seconds = 3.0
    counted.measures.progressed(running, 0, 0.0)  # nothing is known yet
    counted.measures.progressed(running, 1, 100.0)  # of an attempt that is lost
    again = at(State.RUNNING, 2)
    counted.measures.progressed(again, 1, 2.0)
    counted.measures.progressed(again, 2, 99.0)  # a later estimate
    estimate = (SPEC.run_steps - 1) * 2.0
    counted.seconds += estimate + 6.0
    counted.measures.stood(at(State.SUCCEEDED, 2))
    (error,) = counted.told("atelier.eta.error").values()
    assert error == pytest.approx(6.0 / (estimate + 6.0))


def test_evictions_tell_how_long_it_was_there(counted: Counted) -> None:
    counted.seconds = 10.0
    counted.measures.loaded("d0", "toy", 1.5, from_host=True, failed=False)
    counted.measures.loaded("d1", "toy", 2.5, from_host=False, failed=True)
    counted.seconds = 70.0
    counted.measures.decided(Load("other", "d0", ("toy",)))
    counted.measures.decided(Load("other", "d1", ("toy",)))  # whose coming was not seen
    assert counted.told("atelier.model.load.duration") == {
        ("toy", "host", "ok"): 1.5, ("toy", "disk", "failed"): 2.5,
    }  # fmt: skip
    assert counted.told("atelier.model.evictions") == {("toy",): 2}
    assert counted.told("atelier.model.eviction.age") == {("toy",): 60.0}


def test_preemptions_and_retries_are_there_from_the_start(counted: Counted) -> None:
    """A counter that comes into being with its first event never rises, to who takes rates."""
    assert counted.told("atelier.preemptions") == {
        ("BATCH",): 0,
        ("NORMAL",): 0,
        ("INTERACTIVE",): 0,
    }
    ticket = Ticket("g", "local", "toy", "64x64", rows=1, steps=4, level=0, submitted=0.0)
    counted.measures.decided(Preempt(ticket, "d0"))
    counted.measures.requeued("AGENT_LOST")
    assert counted.told("atelier.preemptions")["BATCH",] == 1
    assert counted.told("atelier.generations.requeued") == {("PREEMPTED",): 0, ("AGENT_LOST",): 1}
