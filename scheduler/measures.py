"""Counts what passes by: waits, ends, loads, evictions, and how good our estimates were.

Times of a generation are taken from its row, so that they are right whoever led when it came.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from opentelemetry.metrics import Meter

from atelier import instruments
from atelier.generation import Generation, Priority, State
from atelier.labels import Capped
from atelier.metrics import counter, histogram
from scheduler.decisions import Load, Preempt, Unload
from scheduler.heard import Heard
from scheduler.live import Live
from scheduler.recent import Noted

MOST_TENANTS = 20
MOST_MODELS = 50
MOST_REASONS = 30
LEAST_TAKEN = 5.0  # seconds: an estimate's error is a share of what it took, but of no less
NAMES = {priority.level: priority.value for priority in Priority}


class Names:
    """The labels' values, of all of a scheduler's metrics alike."""

    def __init__(self) -> None:
        self.tenant = Capped(MOST_TENANTS)
        self.model = Capped(MOST_MODELS)
        self.reason = Capped(MOST_REASONS)


class Measures(Heard):
    """Owned by the scheduler's loop."""

    def __init__(
        self,
        meter: Meter,
        live: Live,
        names: Names,
        *,
        clock: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        priorities = [{"priority": priority.value} for priority in Priority]
        self._submitted = counter(meter, instruments.SUBMITTED)
        self._wait = histogram(meter, instruments.QUEUE_WAIT)
        self._ended = counter(meter, instruments.ENDED)
        self._took = histogram(meter, instruments.DURATION)
        self._requeued = counter(meter, instruments.REQUEUED, {"reason": "PREEMPTED"})
        self._preemptions = counter(meter, instruments.PREEMPTIONS, *priorities)
        self._eta = histogram(meter, instruments.ETA_ERROR)
        models = [{"model": names.model(name)} for name in live.sched.models]
        self._loads = histogram(meter, instruments.LOAD_DURATION)
        self._evictions = counter(meter, instruments.EVICTIONS, *models)
        self._ages = histogram(meter, instruments.EVICTION_AGE)
        self._live = live
        self._names = names
        self._clock = clock
        self._wall = wall
        self._waits: set[str] = set()  # ids that were told as submitted, and have not run
        self._promised: dict[str, tuple[int, datetime, float]] = {}  # attempt, when, seconds
        self._loaded: dict[tuple[str, str], float] = {}  # (device, model) -> when

    def stood(self, row: Generation) -> None:
        labels = {"tenant": self._names.tenant(row.tenant), "priority": row.priority.value}
        if row.state is State.QUEUED:
            if row.attempt == 0 and row.id not in self._waits:
                self._waits.add(row.id)
                self._submitted.add(1, labels)
        elif row.state is State.RUNNING:
            self._waits.discard(row.id)
            if row.attempt == 1 and row.start_time and row.id not in self._promised:
                waited = (row.start_time - row.create_time).total_seconds()
                self._wait.record(max(0.0, waited), labels)
        else:
            self._waits.discard(row.id)
            self._over(row, labels["tenant"])

    def _over(self, row: Generation, tenant: str) -> None:
        reason = self._names.reason(row.failure.reason) if row.failure else ""
        self._ended.add(1, {"tenant": tenant, "state": row.state.value, "reason": reason})
        model, finish = self._names.model(row.model), row.finish_time or self._wall()
        took = max(0.0, (finish - row.create_time).total_seconds())
        self._took.record(took, {"model": model, "state": row.state.value})
        promised = self._promised.pop(row.id, None)
        if promised and row.state is State.SUCCEEDED and promised[0] == row.attempt:
            _, at, estimate = promised
            actual = (self._wall() - at).total_seconds()
            error = abs(actual - estimate) / max(actual, LEAST_TAKEN)
            self._eta.record(error, {"model": model})

    def progressed(self, row: Generation, step: int, step_seconds: float) -> None:
        """Remember the first estimate of each attempt, as it is told to callers (present.py)."""
        if step_seconds <= 0:
            return
        kept = self._promised.get(row.id)
        if kept is None or kept[0] != row.attempt:
            left = max(0, row.spec.run_steps - step) * step_seconds
            self._promised[row.id] = (row.attempt, self._wall(), left)

    def requeued(self, reason: str) -> None:
        self._requeued.add(1, {"reason": self._names.reason(reason)})

    def decided(self, decision: Noted) -> None:
        match decision:
            case Preempt(ticket):
                self._preemptions.add(1, {"priority": NAMES[ticket.level]})
            case Load(_, device_id, evict):
                for model in evict:
                    self._evict(device_id, model)
            case Unload(model, device_id):
                self._evict(device_id, model)
            case _:
                pass

    def _evict(self, device_id: str, model: str) -> None:
        labels = {"model": self._names.model(model)}
        self._evictions.add(1, labels)
        since = self._loaded.pop((device_id, model), None)
        if since is not None:
            self._ages.record(self._clock() - since, labels)

    def loaded(
        self, device_id: str, model: str, seconds: float, *, from_host: bool, failed: bool
    ) -> None:
        if not failed:
            self._loaded[device_id, model] = self._clock()
        labels = {
            "model": self._names.model(model),
            "source": "host" if from_host else "disk",
            "outcome": "failed" if failed else "ok",
        }
        self._loads.record(seconds, labels)

    def unloaded(self, device_id: str, model: str) -> None:
        self._loaded.pop((device_id, model), None)
