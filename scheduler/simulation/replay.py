"""The rules that any schedule must keep, checked from a timeline alone. Pure.

It shares no code with the core or the simulator beyond the scenario, so that neither can hide its
own mistake: memory, exclusivity, residency, whole steps, loads (from disk or host memory),
failures, and that each request gets all of its steps, and again those that a failure took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from scheduler.simulation.world import Gpu, Scenario, Span

SLACK = 1e-6  # seconds


class _State:
    """A device, as the timeline tells it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.resident: set[str] = set()
        self.loading = ""
        self.up = True
        self.busy_until = 0.0


class _Host:
    """A node's memory for weights, as the timeline tells it."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.held: set[str] = set()
        self.lately: list[set[str]] = [set()]  # what was held at any time of this instant
        self.changed = -1.0
        self.busy_until = 0.0

    def now_holds(self, models: set[str], at: float) -> None:
        if at > self.changed + SLACK:
            self.lately = [self.held]
        self.changed, self.held = at, models
        self.lately.append(models)

    def maybe_held(self, at: float) -> list[set[str]]:
        return self.lately if at <= self.changed + SLACK else [self.held]


def violations(scenario: Scenario, timeline: Iterable[Span], finished: Iterable[str]) -> list[str]:
    """What breaks a rule; empty for a timeline that keeps them all. `finished`: ids of requests."""
    check = _Check(scenario)
    moments = []
    for i, span in enumerate(timeline):
        # At one instant: what ends, then failures, then what begins.
        if span.kind in ("fail", "recover", "unload", "hold"):
            moments.append((span.began, 1, i, span, span.kind))
        else:
            moments.append((span.began, 2, i, span, "begin"))
            moments.append((span.ended, 0, i, span, "end"))
    for _, _, _, span, what in sorted(moments, key=lambda m: (round(m[0], 9), *m[1:3])):
        check.apply(span, what)
    for name in finished:
        ticket = check.tickets[name]
        if check.steps[name] < ticket.steps or name not in check.decoded:
            check.wrong.append(f"{name} finished after {check.steps[name]} of {ticket.steps} steps")
    return check.wrong


class _Check:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.tickets = {t.id: t for t in scenario.requests}
        self.states = {gpu.id: _State(gpu) for gpu in scenario.gpus}
        self.hosts = {node: _Host(size) for node, size in scenario.host_memory.items()}
        self.steps: dict[str, int] = defaultdict(int)
        self.decoded: set[str] = set()
        self.on: dict[str, str] = {}  # request -> device that works on it now
        self.active: dict[str, int] = {}  # device that computes (or leads) -> how many with it
        self.wrong: list[str] = []

    def apply(self, span: Span, what: str) -> None:
        if span.kind in ("hold", "warm"):
            self._host(self.hosts[span.gpu], span, what)
            return
        state = self.states[span.gpu]
        match span.kind, what:
            case "fail", _:
                state.up, state.loading = False, ""
                state.resident.clear()
            case "recover", _:
                state.up, state.busy_until = True, span.began
            case "unload", _:
                state.resident.discard(span.model)
            case "load", "begin":
                self._load(state, span)
            case "load", "end":
                if state.loading == span.model:
                    state.loading = ""
                    state.resident.add(span.model)
            case _, "begin":
                self._compute(state, span)
            case _:
                self._computed(span)

    def _load(self, state: _State, span: Span) -> None:
        if state.loading:
            self._say(span, f"loads while {state.loading} loads")
        if not state.up:
            self._say(span, "loads while it is down")
        if span.model in state.resident:
            self._say(span, f"loads {span.model}, which is there")
        state.resident -= set(span.evicted)
        state.loading = span.model
        took = span.ended - span.began
        if not span.cut and not any(
            abs(took - s) <= SLACK for s in self._load_seconds(state, span)
        ):
            self._say(span, f"loads {span.model} in {took:.3f} s")
        self._memory(state, span, 0.0)

    def _load_seconds(self, state: _State, span: Span) -> list[float]:
        """What the load may take: each missing part its share, from host memory if it was there."""
        models = self.scenario.models
        model, host = models[span.model], self.hosts.get(state.gpu.node)
        there = {part for name in state.resident for part in models[name].shared}
        found = []
        for held in host.maybe_held(span.began) if host else [set()]:
            near = {part for name in held for part in models[name].shared}
            seconds = 0.0
            parts = {"": model.weights - sum(model.shared.values()), **model.shared}
            for part, size in parts.items():
                in_host = part in near if part else model.name in held
                slow = model.load if model.load_host is None or not in_host else model.load_host
                seconds += 0.0 if part in there else slow * size / model.weights
            found.append(seconds)
        return found

    def _host(self, host: _Host, span: Span, what: str) -> None:
        """What comes in was on a device of the node, or was read from disk; and it fits."""
        if what == "begin":
            if span.began < host.busy_until - SLACK:
                self._say(span, "reads two models from disk for its memory at once")
            host.busy_until = span.ended
            model = self.scenario.models[span.model]
            if abs(span.ended - span.began - (model.load - (model.load_host or 0.0))) > SLACK:
                self._say(span, f"reads {span.model} in {span.ended - span.began:.3f} s")
            return
        models = {*host.held, span.model} if what == "end" else set(span.requests)
        if what == "hold":
            node = [s for s in self.states.values() if s.gpu.node == span.gpu]
            for name in sorted(models - host.held):
                if not any(name in state.resident for state in node):
                    self._say(span, f"has {name} in memory, which was on none of its devices")
        held = self._union(models)
        held += sum(m.weights * (m.gang - 1) for m in map(self.scenario.models.__getitem__, models))
        if held > host.capacity + 1:
            self._say(span, f"has {held / 1e9:.2f} GB in memory")
        host.now_holds(models, span.ended)

    def _union(self, names: Iterable[str]) -> float:
        models = [self.scenario.models[name] for name in names]
        parts = {part: size for model in models for part, size in model.shared.items()}
        return sum(m.weights - sum(m.shared.values()) for m in models) + sum(parts.values())

    def _compute(self, state: _State, span: Span) -> None:
        shape = self.scenario.models[span.model].shapes[span.shape]
        if not state.up:
            self._say(span, "computes while it is down")
        if span.began < state.busy_until - SLACK:
            self._say(span, "computes two things at once")
        state.busy_until = span.ended
        if span.kind == "steps":
            rows = sum(self.tickets[name].rows for name in span.requests)
            self._memory(state, span, rows * shape.activation)
            expected = span.steps * shape.step(rows) / state.gpu.speed
            if rows > shape.batch_cap:
                self._say(span, f"{rows} rows in a batch of at most {shape.batch_cap}")
        else:
            rows = sum(self.tickets[name].rows for name in span.requests)
            expected = rows * shape.decode / state.gpu.speed
        took, devices = span.ended - span.began, self._together(state, span)
        self.active[span.gpu] = self.scenario.models[span.model].gang
        if span.cut:
            if not any(self._fails(gpu, span.ended) for gpu in devices):
                self._say(span, f"is cut short at {span.ended:.3f} s, but nothing fails")
        elif abs(took - expected) > SLACK:
            self._say(span, f"takes {took:.6f} s, not {expected:.6f} s")
        for name in span.requests:
            ticket = self.tickets[name]
            if (ticket.model, ticket.shape) != (span.model, span.shape):
                self._say(span, f"{name} in a batch of another model or shape")
            if name in self.on:
                self._say(span, f"{name} runs on {self.on[name]} too")
            if span.began < ticket.submitted - SLACK:
                self._say(span, f"{name} runs before it came")
            self.on[name] = span.gpu

    def _computed(self, span: Span) -> None:
        self.active.pop(span.gpu, None)
        for name in span.requests:
            self.on.pop(name, None)
            if span.kind == "steps":
                self.steps[name] += span.steps
            if span.cut:
                self._rewind(name)
            elif span.kind == "decode":
                if self.steps[name] < self.tickets[name].steps:
                    self._say(span, f"{name} is decoded after {self.steps[name]} steps")
                self.decoded.add(name)

    def _rewind(self, name: str) -> None:
        """Back to the last checkpoint; what was done but not decoded, to the one before the end."""
        keep, steps = self.scenario.checkpoint_steps, self.tickets[name].steps
        self.steps[name] = self.steps[name] // keep * keep
        if self.steps[name] >= steps:
            self.steps[name] = steps - min(keep, steps)

    def _memory(self, state: _State, span: Span, activations: float) -> None:
        there = {*state.resident, *([state.loading] if state.loading else ())}
        held = self._union(there)
        if held + activations > state.gpu.memory + 1:
            self._say(span, f"holds {(held + activations) / 1e9:.2f} GB")

    def _together(self, state: _State, span: Span) -> list[Gpu]:
        """The devices that may have a part in it: of a gang, those of the node.

        Which of them follow is not written down. There must be enough that have their shard and
        compute nothing else, and all that runs on the node must have devices of its own.
        """
        size = self.scenario.models[span.model].gang
        if size == 1:
            if span.model not in state.resident:
                self._say(span, f"computes {span.model}, which is not there")
            return [state.gpu]
        node = [s for s in self.states.values() if s.gpu.node == state.gpu.node]
        able = [
            s
            for s in node
            if s.up and span.model in s.resident and (s is state or s.gpu.id not in self.active)
        ]
        if len(able) < size:
            self._say(span, f"computes {span.model}, which only {len(able)} devices can")
        ids = {s.gpu.id for s in node if s.up}
        taken = size + sum(n for gpu, n in self.active.items() if gpu in ids and gpu != span.gpu)
        if taken > len(ids):
            self._say(span, f"shares the devices of its node: {taken} are wanted of {len(ids)}")
        return [s.gpu for s in node]

    def _fails(self, gpu: Gpu, at: float) -> bool:
        return any(
            event == "fail" and name == gpu.id and abs(when - at) < SLACK
            for when, event, name in self.scenario.failures
        )

    def _say(self, span: Span, what: str) -> None:
        self.wrong.append(f"{span.began:.3f} s: device {span.gpu} {what}")
