"""The same core under a virtual clock: a fleet, models and a trace in, what happened out. Pure.

What is simulated: a batch advances in steps of step_a + step_c * rows seconds (over the device's
speed), is interrupted between steps only, then decodes its finished members one after another; one
load at a time a device, beside the computing; a generation that resumes elsewhere moves its latents
(4 ms and latent_mb/1000 s); a failed device loses what its generations did since their last
checkpoint. Loads do not slow computing, and there is no out-of-memory beyond the core's own budget.

Whatever answers to `Policy` is simulated alike: ours (`Sched`) and those it is compared with.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler.decisions import Bind, Boundary, Decision, Hold, Load, Preempt, Reject, Unload
from scheduler.runqueue import Late, Ticket
from scheduler.sched import Sched
from scheduler.simulation.world import DRAIN_SECONDS, Gpu, Outcome, Policy, Run, Scenario, Span

TICK_SECONDS = 0.5
MOVE_SECONDS = 0.004
PROGRESS_EVENTS = 8192

Clock = Callable[[], float]
Progress = Callable[[float], None]  # called with the share of requests that are done


@dataclass
class _Gpu:
    """The M of a simulated device."""

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


class Simulation:
    """One run. Build it, call `run`.

    Args:
        policy: what decides; a `Late` stands for the core in that mode.
        clock: seconds of real time, to measure what decisions cost; without it nothing is timed.
        keep_timeline: keep a `Span` for all that the devices do.
        progress: told now and then how far it is.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: Policy | Late,
        *,
        clock: Clock | None = None,
        keep_timeline: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.scenario = scenario
        self.core = Sched(scenario.models, late=policy) if isinstance(policy, Late) else policy
        self.gpus: dict[str, _Gpu] = {}
        self.result = Run(scenario, {t.id: Outcome(replace(t)) for t in scenario.requests})
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._copies: dict[str, int] = dict.fromkeys(scenario.models, 0)  # on devices
        self._warming: dict[str, str] = {}  # node -> model that its disk is read for
        self._clock = clock
        self._keep = keep_timeline
        self._progress = progress
        self._open = len(scenario.requests)

    def run(self) -> Run:
        scenario, events, result = self.scenario, self._events, self.result
        for node, memory in scenario.host_memory.items():
            self.core.host_up(node, memory)
        for gpu in scenario.gpus:
            self._up(gpu, 0.0)
        for outcome in result.outcomes.values():
            self._at(outcome.ticket.submitted, self._submit, outcome.ticket)
        for when, event, gpu_id in scenario.failures:
            self._at(when, self._fail if event == "fail" else self._recover, gpu_id)
        self._at(TICK_SECONDS, self._tick)
        limit = scenario.horizon + DRAIN_SECONDS
        while events and self._open:
            now, _, happens, data = heapq.heappop(events)
            if now > limit:
                break
            result.events += 1
            result.ended = now
            happens(now, *data)
            if self._progress and not result.events % PROGRESS_EVENTS:
                self._progress(1 - self._open / len(scenario.requests))
        return result

    def _at(self, when: float, happens: Callable[..., None], *data: object) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, happens, data))

    # Events.

    def _submit(self, now: float, ticket: Ticket) -> None:
        self.result.outcomes[ticket.id].cold = not self._copies[ticket.model]
        self._carry_out(self._timed(self.core.submit, ticket, now), now)

    def _tick(self, now: float) -> None:
        self._carry_out(self.core.tick(now), now)
        self._at(now + TICK_SECONDS, self._tick)

    def _steps_done(self, now: float, gpu_id: str, epoch: int) -> None:
        """Steps are over: by the end of a member, or by request."""
        gpu = self.gpus[gpu_id]
        if gpu.epoch != epoch:
            return
        running = self.core.devices[gpu_id].running
        self._spend(gpu_id, "steps", gpu.steps, now, list(running.values()))
        gpu.stepping = False
        done = []
        for ticket in running.values():
            ticket.steps_left -= gpu.steps
            if ticket.steps_left <= 0:
                done.append(ticket)
        if not done:
            self._reschedule(gpu_id, now)
            return
        end = now
        for ticket in done:
            shape = self.core.models[ticket.model].shapes[ticket.shape]
            end += shape.decode * ticket.rows / gpu.speed
            gpu.decoding.append((ticket, end))
        gpu.began = now
        gpu.epoch += 1
        self._at(end, self._decoded, gpu_id, gpu.epoch)

    def _decoded(self, now: float, gpu_id: str, epoch: int) -> None:
        gpu = self.gpus[gpu_id]
        if gpu.epoch != epoch:
            return
        self._spend(gpu_id, "decode", 0, now, [ticket for ticket, _ in gpu.decoding])
        done, gpu.decoding = gpu.decoding, []
        for ticket, end in done:
            self.result.outcomes[ticket.id].finish = end
            self.core.finished(ticket)
            self._open -= 1
        self._reschedule(gpu_id, now)

    def _loaded(self, now: float, gpu_id: str, load_epoch: int) -> None:
        gpu = self.gpus[gpu_id]
        if gpu.load_epoch == load_epoch and gpu.load:
            model = gpu.load.model
            self._there(gpu, model, now=True)
            self._load_over(gpu_id, now)
            self._carry_out(self.core.loaded(gpu_id, model, now), now)

    def _fail(self, now: float, gpu_id: str) -> None:
        if not self.gpus[gpu_id].up:
            return
        where = {t: i for i, device in self.core.devices.items() for t in device.running}
        self._halt(gpu_id, now)
        gpu = self.gpus[gpu_id]
        gpu.up = False
        for model in list(gpu.there):
            self._there(gpu, model, now=False)
        gpu.load_epoch += 1
        if gpu.load:
            self._load_over(gpu_id, now, cut=True)
        self._note(Span("fail", gpu_id, now, now))
        keep = self.scenario.checkpoint_steps
        lost = self.core.device_down(gpu_id)
        for ticket in lost:
            if where.get(ticket.id, gpu_id) != gpu_id:  # a gang, led from another device
                leader = where[ticket.id]
                self._halt(leader, now, ticket)
                self._reschedule(leader, now)
            done = ticket.steps - ticket.steps_left
            ticket.steps_left = ticket.steps - done // keep * keep
            if ticket.steps_left <= 0:
                ticket.steps_left = min(keep, ticket.steps)
        for ticket in lost:
            self._carry_out(self.core.again(ticket, now), now)

    def _recover(self, now: float, gpu_id: str) -> None:
        if not self.gpus[gpu_id].up:
            self._note(Span("recover", gpu_id, now, now))
            self._up(next(g for g in self.scenario.gpus if g.id == gpu_id), now)

    def _up(self, gpu: Gpu, now: float) -> None:
        fresh = _Gpu(gpu.speed)
        if old := self.gpus.get(gpu.id):
            fresh.epoch, fresh.load_epoch = old.epoch + 1, old.load_epoch + 1
        self.gpus[gpu.id] = fresh
        joined = self.core.device_up(gpu.id, gpu.node, gpu.memory, now, speed=gpu.speed)
        self._carry_out(joined, now)

    def _halt(self, gpu_id: str, now: float, ticket: Ticket | None = None) -> None:
        """Stop in the middle of whatever it is: whole steps count, the rest is lost."""
        gpu, steps = self.gpus[gpu_id], 0
        on_it = [ticket] if ticket else list(self.core.devices[gpu_id].running.values())
        if gpu.stepping:
            steps = max(0, min(gpu.steps, int((now - gpu.began) / gpu.step + 1e-9)))
            for one in on_it:
                one.steps_left -= steps
        if gpu.computing and on_it and now > gpu.began:
            kind = "steps" if gpu.stepping else "decode"
            self._spend(gpu_id, kind, steps, now, on_it, cut=True)
        gpu.stepping, gpu.decoding = False, []
        gpu.epoch += 1

    # Decisions.

    def _timed(self, call: Callable[..., list[Decision]], *arguments: object) -> list[Decision]:
        if self._clock is None:
            return call(*arguments)
        began = self._clock()
        decisions = call(*arguments)
        self.result.decision_seconds.append(self._clock() - began)
        return decisions

    def _carry_out(self, decisions: list[Decision], now: float) -> None:
        for decision in decisions:
            match decision:
                case Boundary(gpu_id):
                    self._request(gpu_id, now)
                case Load():
                    self._load(decision, now)
                case Unload(model, gpu_id):  # takes no time here
                    self._there(self.gpus[gpu_id], model, now=False)
                    self._note(Span("unload", gpu_id, now, now, model))
                    self._carry_out(self.core.unloaded(gpu_id, model, now), now)
                case Hold(node, models, warming):
                    self._hold(node, models, warming, now)
                case Reject(ticket):
                    self.result.outcomes[ticket.id].rejected = True
                    self._open -= 1
                case _:
                    raise AssertionError(f"{decision} outside of a boundary")

    def _request(self, gpu_id: str, now: float) -> None:
        """A boundary is wanted: at once where nothing runs, else after the step under way."""
        gpu = self.gpus[gpu_id]
        if gpu.decoding or not gpu.up:
            return
        if not gpu.stepping:
            self._reschedule(gpu_id, now)
            return
        steps = max(1, math.ceil((now - gpu.began) / gpu.step - 1e-9)) if gpu.step else gpu.steps
        if steps < gpu.steps:
            gpu.steps = steps
            gpu.epoch += 1
            self._at(gpu.began + steps * gpu.step, self._steps_done, gpu_id, gpu.epoch)

    def _reschedule(self, gpu_id: str, now: float) -> None:
        """Ask what runs from here on, and let it run."""
        gpu, outcomes = self.gpus[gpu_id], self.result.outcomes
        rest: list[Decision] = []
        moving = 0.0
        for decision in self._timed(self.core.boundary, gpu_id, now):
            match decision:
                case Bind(ticket, bound_to):
                    outcome = outcomes[ticket.id]
                    if outcome.start < 0:
                        outcome.start = now
                    elif outcome.gpu != bound_to:
                        outcome.moves += 1
                        shape = self.core.models[ticket.model].shapes[ticket.shape]
                        moving = max(moving, MOVE_SECONDS + shape.latent_mb / 1000)
                    outcome.gpu = bound_to
                case Preempt(ticket, _):
                    outcomes[ticket.id].preemptions += 1
                case _:
                    rest.append(decision)
        running = self.core.devices[gpu_id].running
        if running:
            one = next(iter(running.values()))
            shape = self.core.models[one.model].shapes[one.shape]
            gpu.step = shape.step(sum(t.rows for t in running.values())) / gpu.speed
            gpu.steps = min(t.steps_left for t in running.values())
            gpu.began = now + moving
            gpu.stepping = True
            gpu.epoch += 1
            self._at(gpu.began + gpu.steps * gpu.step, self._steps_done, gpu_id, gpu.epoch)
            if one.model != gpu.model:
                self.result.switches += bool(gpu.model) and now >= self.scenario.warmup
                gpu.model = one.model
        self._carry_out(rest, now)

    def _load(self, load: Load, now: float) -> None:
        gpu = self.gpus[load.device_id]
        assert gpu.load is None, f"{load.device_id} loads {gpu.load}, then {load}"
        for victim in load.evict:
            self._there(gpu, victim, now=False)
        gpu.load, gpu.load_began = load, now
        gpu.load_mark = self._computed(gpu, now)
        gpu.load_epoch += 1
        self.result.loads += now >= self.scenario.warmup
        end = self.core.devices[load.device_id].load_ends
        self.result.host_loads += now >= self.scenario.warmup and self._from_host(load, end - now)
        self._at(end, self._loaded, load.device_id, gpu.load_epoch)

    def _there(self, gpu: _Gpu, model: str, *, now: bool) -> None:
        """A model came to a device, or left it."""
        if now != (model in gpu.there):
            self._copies[model] += 1 if now else -1
            gpu.there ^= {model}

    def _from_host(self, load: Load, seconds: float) -> bool:
        """Whether it takes less than the same load from disk."""
        return seconds < self.scenario.models[load.model].load * (1 - 1e-9)

    def _hold(self, node: str, models: tuple[str, ...], warming: str, now: float) -> None:
        """What is at hand is there at once; what is read takes what it will save."""
        self._note(Span("hold", node, now, now, requests=models))
        if warming and self._warming.get(node) != warming:
            self._warming[node] = warming
            gain = self.scenario.models[warming].gains_from_host
            self._note(Span("warm", node, now, now + gain, warming))
            self._at(now + gain, self._warmed, node, warming)

    def _warmed(self, now: float, node: str, model: str) -> None:
        self._warming.pop(node, None)
        self.result.warmed += now >= self.scenario.warmup
        self.core.warmed(node, model)

    def _load_over(self, gpu_id: str, now: float, *, cut: bool = False) -> None:
        """A load ended, well or with its device; what it cost is counted."""
        gpu, horizon = self.gpus[gpu_id], self.scenario.horizon
        load, gpu.load = gpu.load, None
        assert load is not None
        if gpu.load_began < horizon:
            seconds = min(now, horizon) - gpu.load_began
            self.result.loading += seconds
            beside = self._computed(gpu, now) - gpu.load_mark
            self.result.stalled += max(0.0, seconds - beside)
        self._note(
            Span("load", gpu_id, gpu.load_began, now, load.model, evicted=load.evict, cut=cut)
        )

    # Accounts.

    def _computed(self, gpu: _Gpu, now: float) -> float:
        return gpu.computed + (max(0.0, now - gpu.began) if gpu.computing else 0.0)

    def _spend(
        self, gpu_id: str, kind: str, steps: int, now: float, batch: list[Ticket],
        *, cut: bool = False,
    ) -> None:  # fmt: skip
        """Account for what a device computed since `began`."""
        gpu, horizon = self.gpus[gpu_id], self.scenario.horizon
        gpu.computed += now - gpu.began
        if not batch:
            return
        one = batch[0]
        gang = self.core.models[one.model].gang
        self.result.busy += gang * max(0.0, min(now, horizon) - min(gpu.began, horizon))
        if self._keep:
            names = tuple(ticket.id for ticket in batch)
            self._note(
                Span(kind, gpu_id, gpu.began, now, one.model, one.shape, names, steps, cut=cut)
            )

    def _note(self, span: Span) -> None:
        if self._keep:
            self.result.timeline.append(span)
