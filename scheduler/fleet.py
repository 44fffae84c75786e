"""The agents: one line each, and what they say. Commands go out by `send`; reports come in here.

A line that breaks leaves its devices in place but out of use, for `agent_grace_seconds`: the agent
goes on working and comes back with the attempts it runs, which are adopted. Only when it does not
come back are its attempts given to others (sysmon).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field

import structlog

from atelier.translate import failure_from, provenance_from, result_from
from atelier.v1 import agent_pb2 as pb
from scheduler.device import Device
from scheduler.live import Live
from scheduler.outcomes import Outcomes
from scheduler.watchers import Progress

log = structlog.get_logger()

AWAY = "its agent is not connected"


@dataclass
class Line:
    """One connected agent: what waits to be sent, and its devices."""

    node: str
    devices: tuple[str, ...]
    outgoing: asyncio.Queue[pb.ConnectResponse | None] = field(default_factory=asyncio.Queue)


class Fleet:
    """All lines. `lost_since` has the devices whose agent is away, and since when."""

    def __init__(
        self,
        live: Live,
        outcomes: Outcomes,
        *,
        epoch: int,
        report_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.lost_since: dict[str, float] = {}
        self.samples: dict[str, pb.DeviceSample] = {}
        self.hardware: dict[str, str] = {}
        self._live = live
        self._outcomes = outcomes
        self._epoch = epoch
        self._report_seconds = report_seconds
        self._clock = clock
        self._lines: dict[str, Line] = {}  # by node
        self._line_of: dict[str, Line] = {}  # by device
        self._tasks: set[asyncio.Task[None]] = set()
        self._differ: dict[str, set[str]] = {}  # device -> models of which its last report differs

    def send(self, device_id: str, command: pb.ConnectResponse) -> bool:
        """Queue a command for the device's agent; False where it is away."""
        line = self._line_of.get(device_id)
        if line is None:
            return False
        line.outgoing.put_nowait(command)
        return True

    async def connect(
        self, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        """One agent's stream, from its Hello until it breaks."""
        first = await anext(requests)
        line, revoked = self._join(first.hello)
        yield pb.ConnectResponse(
            welcome=pb.Welcome(
                epoch=self._epoch, report_seconds=self._report_seconds, revoked=revoked
            )
        )
        listener = asyncio.create_task(self._listen(line, requests))
        try:
            while (command := await line.outgoing.get()) is not None:
                yield command
        finally:
            listener.cancel()
            self._leave(line)

    def close(self) -> None:
        """End all lines; the agents will connect to whoever serves next."""
        for line in self._lines.values():
            line.outgoing.put_nowait(None)

    def _join(self, hello: pb.Hello) -> tuple[Line, list[pb.Attempt]]:
        """Take up an agent: its devices as they are, its attempts where they are still theirs."""
        now = self._clock()
        if old := self._lines.get(hello.node):
            old.outgoing.put_nowait(None)
        line = Line(hello.node, tuple(facts.id for facts in hello.devices))
        self._lines[hello.node] = line
        sched = self._live.sched
        for facts in hello.devices:
            if facts.id in sched.devices:
                sched.device_down(facts.id)
            sched.device_up(facts.id, hello.node, facts.capacity_bytes,
                            list(facts.resident_models), now)  # fmt: skip
            self._line_of[facts.id] = line
            self.lost_since.pop(facts.id, None)
            self.hardware[facts.id] = facts.hardware
        revoked, kept = [], set()
        for attempt in hello.attempts:
            generation = self._live.holds(attempt.generation_id, attempt.lease_token)
            if generation and attempt.device_id in sched.devices:
                sched.adopt(self._live.ticket(generation), attempt.device_id, now)
                kept.add(generation.id)
            else:
                revoked.append(attempt)
        for generation in list(self._live.running.values()):
            if generation.device in line.devices and generation.id not in kept:
                assert generation.lease_token is not None
                self._spawn(self._outcomes.lost(generation.id, generation.lease_token))
        log.info("agent joined", node=hello.node, devices=line.devices, adopted=len(kept),
                 revoked=len(revoked))  # fmt: skip
        self._live.wake.set()
        return line, revoked

    def _leave(self, line: Line) -> None:
        if self._lines.get(line.node) is not line:
            return  # it connected again before this line was found broken
        del self._lines[line.node]
        for device_id in line.devices:
            self._line_of.pop(device_id, None)
            self.lost_since[device_id] = self._clock()
            if device_id in self._live.sched.devices:
                self._live.sched.quarantine(device_id, AWAY)
        log.warning("agent left", node=line.node, devices=line.devices)

    async def _listen(self, line: Line, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        try:
            async for message in requests:
                self._hear(line, message)
        finally:
            line.outgoing.put_nowait(None)

    def _hear(self, line: Line, message: pb.ConnectRequest) -> None:
        match message.WhichOneof("message"):
            case "device_report":
                for sample in message.device_report.samples:
                    self._sampled(sample)
            case "model_changed":
                self._model_changed(message.model_changed)
            case "progress":
                report = message.progress
                attempt = report.attempt
                if self._live.holds(attempt.generation_id, attempt.lease_token):
                    self._live.watchers.progress(
                        attempt.generation_id,
                        Progress(
                            report.phase, report.step, report.total_steps, report.step_seconds
                        ),
                    )
            case "device_released":
                attempt = message.device_released.attempt
                if self._live.holds(attempt.generation_id, attempt.lease_token):
                    self._live.released(attempt.generation_id)
            case "succeeded":
                self._spawn(self._succeeded(line, message.succeeded))
            case "failed":
                self._spawn(self._failed(line, message.failed))
            case other:
                log.warning("unexpected message", node=line.node, message=other)

    def _sampled(self, sample: pb.DeviceSample) -> None:
        device = self._live.sched.devices.get(sample.device_id)
        if device is None:
            return
        self.samples[sample.device_id] = sample
        reason = "" if sample.healthy else (sample.reason or "its Triton does not answer")
        if reason != device.quarantined:
            log.warning("device", device=device.id, quarantined=reason)
            self._live.sched.quarantine(device.id, reason)
            self._live.wake.set()
        self._correct(device, set(sample.resident_models) if sample.healthy else None)

    def _correct(self, device: Device, residents: set[str] | None) -> None:
        """Believe what two reports in a row say of a model, against what we thought.

        One may have been taken before a load that was reported since; two mean that its Triton was
        restarted, or that a load's report was lost with an earlier line. None: it does not say.
        """
        known, sched = self._live.sched.cards, self._live.sched
        moving = {device.loading, device.unloading}
        differ = set(device.resident) ^ residents if residents is not None else set()
        differ = {model for model in differ if model in known and model not in moving}
        for model in differ & self._differ.get(device.id, set()):
            there = model not in device.resident
            log.warning("residency corrected", device=device.id, model=model, resident=there)
            sched.unloaded(device.id, model, still_resident=there, now=self._clock())
            self._live.wake.set()
        self._differ[device.id] = differ

    def _model_changed(self, change: pb.ModelChanged) -> None:
        now, device_id, model = self._clock(), change.device_id, change.model
        sched = self._live.sched
        device = sched.devices.get(device_id)
        if device is None:
            return
        if device.loading == model:
            if change.resident:
                log.info("loaded", device=device_id, model=model, seconds=change.seconds)
                self._differ.pop(device_id, None)
                sched.loaded(device_id, model, now)
            else:
                failure = failure_from(change.failure)
                log.error("load failed", device=device_id, model=model, reason=failure.message)
                given_up = sched.load_failed(device_id, model, now)
                if given_up:
                    self._spawn(self._outcomes.unloadable(given_up.tenant, given_up.id, failure))
        else:
            sched.unloaded(device_id, model, still_resident=change.resident, now=now)
        self._live.wake.set()

    async def _succeeded(self, line: Line, report: pb.AttemptSucceeded) -> None:
        attempt = report.attempt
        taken = await self._outcomes.succeeded(
            attempt.generation_id,
            attempt.lease_token,
            [result_from(result) for result in report.results],
            provenance_from(report.provenance),
        )
        self._settle(line, attempt, accepted=taken)

    async def _failed(self, line: Line, report: pb.AttemptFailed) -> None:
        attempt, failure = report.attempt, failure_from(report.failure)
        key = attempt.generation_id, attempt.lease_token
        if report.cancelled:
            taken = await self._outcomes.cancelled(*key)
        else:
            log.warning("attempt failed", generation_id=key[0], reason=failure.reason,
                        detail=failure.message, retryable=report.retryable)  # fmt: skip
            taken = await self._outcomes.failed(*key, failure, retryable=report.retryable)
        self._settle(line, attempt, accepted=taken)

    def _settle(self, line: Line, attempt: pb.Attempt, *, accepted: bool) -> None:
        settled = pb.AttemptSettled(attempt=attempt, accepted=accepted)
        line.outgoing.put_nowait(pb.ConnectResponse(settled=settled))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("report not handled", exc_info=error)
