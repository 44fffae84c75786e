"""What a simulated run is told by: outcomes, seconds spent, and the timeline. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from scheduler.decisions import Load
from scheduler.runqueue import Ticket
from scheduler.simulation.world import Outcome, Run, Scenario, Span


@dataclass
class Worker:
    """The M of a simulated device."""

    id: str
    speed: float
    up: bool = True
    epoch: int = 0  # of what it computes: an event of an earlier one is void
    began: float = 0.0
    step: float = 0.0  # seconds
    steps: int = 0  # until it looks up
    stepping: bool = False
    decoding: list[tuple[Ticket, float]] = field(default_factory=list)  # and when each ends
    model: str = ""  # what it computed last
    computed: float = 0.0  # seconds, without those under way
    load_epoch: int = 0
    load: Load | None = None
    load_began: float = 0.0
    load_mark: float = 0.0  # seconds computed when the load began
    there: set[str] = field(default_factory=set)  # models

    @property
    def computing(self) -> bool:
        return self.stepping or bool(self.decoding)

    def computed_by(self, now: float) -> float:
        """Seconds, with those under way."""
        return self.computed + (max(0.0, now - self.began) if self.computing else 0.0)


class Accounts:
    """Counts; decides nothing."""

    def __init__(self, scenario: Scenario, *, keep_timeline: bool) -> None:
        self.result = Run(scenario, {t.id: Outcome(replace(t)) for t in scenario.requests})
        self._scenario = scenario
        self._keep = keep_timeline
        self._copies: dict[str, int] = dict.fromkeys(scenario.models, 0)  # on devices

    def came(self, ticket: Ticket) -> None:
        self.result.outcomes[ticket.id].cold = not self._copies[ticket.model]

    def there(self, worker: Worker, model: str, *, now: bool) -> None:
        """A model came to a device, or left it."""
        if now != (model in worker.there):
            self._copies[model] += 1 if now else -1
            worker.there ^= {model}

    def runs(self, worker: Worker, model: str, now: float) -> None:
        if model != worker.model:
            self.result.switches += bool(worker.model) and now >= self._scenario.warmup
            worker.model = model

    def load_begins(self, worker: Worker, load: Load, now: float, ends: float) -> None:
        for victim in load.evict:
            self.there(worker, victim, now=False)
        worker.load, worker.load_began = load, now
        worker.load_mark = worker.computed_by(now)
        if now >= self._scenario.warmup:
            self.result.loads += 1
            from_disk = self._scenario.models[load.model].load
            self.result.host_loads += ends - now < from_disk * (1 - 1e-9)

    def load_ends(self, worker: Worker, now: float, *, cut: bool = False) -> None:
        """A load ended, well or with its device; what it cost is counted."""
        horizon, load = self._scenario.horizon, worker.load
        assert load is not None
        worker.load = None
        if not cut:
            self.there(worker, load.model, now=True)
        if worker.load_began < horizon:
            seconds = min(now, horizon) - worker.load_began
            self.result.loading += seconds
            beside = worker.computed_by(now) - worker.load_mark
            self.result.stalled += max(0.0, seconds - beside)
        began, evicted = worker.load_began, load.evict
        self.note(Span("load", worker.id, began, now, load.model, evicted=evicted, cut=cut))

    def spent(
        self, worker: Worker, kind: str, steps: int, now: float, batch: Sequence[Ticket],
        *, cut: bool = False,
    ) -> None:  # fmt: skip
        """A device computed since `began`."""
        worker.computed += now - worker.began
        if not batch:
            return
        one, horizon = batch[0], self._scenario.horizon
        gang = self._scenario.models[one.model].gang
        self.result.busy += gang * max(0.0, min(now, horizon) - min(worker.began, horizon))
        names = tuple(ticket.id for ticket in batch)
        self.note(
            Span(kind, worker.id, worker.began, now, one.model, one.shape, names, steps, cut=cut)
        )

    def note(self, span: Span) -> None:
        if self._keep:
            self.result.timeline.append(span)
