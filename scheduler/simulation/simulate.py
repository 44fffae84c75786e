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
from typing import Any

from scheduler.decisions import Bind, Boundary, Decision, Hold, Load, Preempt, Reject, Unload
from scheduler.runqueue import Late, Ticket
from scheduler.sched import Sched
from scheduler.simulation.accounts import Accounts, Worker
from scheduler.simulation.world import DRAIN_SECONDS, Gpu, Policy, Run, Scenario, Span

TICK_SECONDS = 0.5
MOVE_SECONDS = 0.004
PROGRESS_EVENTS = 8192

Clock = Callable[[], float]
Progress = Callable[[float], None]  # called with the share of requests that are done


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
        self.gpus: dict[str, Worker] = {}
        self._accounts = Accounts(scenario, keep_timeline=keep_timeline)
        self.result = self._accounts.result
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._warming: dict[str, str] = {}  # node -> model that its disk is read for
        self._clock = clock
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
        self._accounts.came(ticket)
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
        self._accounts.spent(gpu, "steps", gpu.steps, now, list(running.values()))
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
        self._accounts.spent(gpu, "decode", 0, now, [ticket for ticket, _ in gpu.decoding])
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
            self._accounts.load_ends(gpu, now)
            self._carry_out(self.core.loaded(gpu_id, model, now), now)

    def _fail(self, now: float, gpu_id: str) -> None:
        if not self.gpus[gpu_id].up:
            return
        where = {t: i for i, device in self.core.devices.items() for t in device.running}
        self._halt(gpu_id, now)
        gpu = self.gpus[gpu_id]
        gpu.up = False
        for model in list(gpu.there):
            self._accounts.there(gpu, model, now=False)
        gpu.load_epoch += 1
        if gpu.load:
            self._accounts.load_ends(gpu, now, cut=True)
        self._accounts.note(Span("fail", gpu_id, now, now))
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
            self._accounts.note(Span("recover", gpu_id, now, now))
            self._up(next(g for g in self.scenario.gpus if g.id == gpu_id), now)

    def _up(self, gpu: Gpu, now: float) -> None:
        fresh = Worker(gpu.id, gpu.speed)
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
            self._accounts.spent(gpu, kind, steps, now, on_it, cut=True)
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
                    self._accounts.there(self.gpus[gpu_id], model, now=False)
                    self._accounts.note(Span("unload", gpu_id, now, now, model))
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
            self._accounts.runs(gpu, one.model, now)
        self._carry_out(rest, now)

    def _load(self, load: Load, now: float) -> None:
        gpu = self.gpus[load.device_id]
        assert gpu.load is None, f"{load.device_id} loads {gpu.load}, then {load}"
        ends = self.core.devices[load.device_id].load_ends
        self._accounts.load_begins(gpu, load, now, ends)
        gpu.load_epoch += 1
        self._at(ends, self._loaded, load.device_id, gpu.load_epoch)

    def _hold(self, node: str, models: tuple[str, ...], warming: str, now: float) -> None:
        """What is at hand is there at once; what is read takes what it will save."""
        self._accounts.note(Span("hold", node, now, now, requests=models))
        if warming and self._warming.get(node) != warming:
            self._warming[node] = warming
            gain = self.scenario.models[warming].gains_from_host
            self._accounts.note(Span("warm", node, now, now + gain, warming))
            self._at(now + gain, self._warmed, node, warming)

    def _warmed(self, now: float, node: str, model: str) -> None:
        self._warming.pop(node, None)
        self.result.warmed += now >= self.scenario.warmup
        self.core.warmed(node, model)
