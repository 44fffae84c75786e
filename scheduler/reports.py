"""What agents say, message by message: believed where it can be true, taken where it is current."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from atelier.errors import StorageRefusedError
from atelier.spans import about
from atelier.translate import failure_from, provenance_from, result_from
from atelier.v1 import agent_pb2 as pb
from scheduler.background import Background
from scheduler.care import Care
from scheduler.decisions import Boundary, Decision
from scheduler.device import Device
from scheduler.facts import believable
from scheduler.fleet import Fleet, Host
from scheduler.lines import Line, Lines
from scheduler.live import Live
from scheduler.outcomes import Outcomes
from scheduler.watchers import Progress

log = structlog.get_logger()

# Reasons of agents for which the device, or the model on it, may be why.
OF_THE_DEVICE = (
    "DEVICE_TIMEOUT", "EXECUTION_FAILED", "INVALID_OUTPUT", "OUT_OF_MEMORY", "STUB_UNHEALTHY",
)  # fmt: skip
MAX_PREVIEW_BYTES = 64 * 2**10  # they lie in memory, one for each generation that runs


class Reports:
    """Hears each message of a line. What needs the database goes on in the background."""

    def __init__(
        self,
        live: Live,
        lines: Lines,
        fleet: Fleet,
        outcomes: Outcomes,
        background: Background,
        *,
        care: Care,
        clock: Callable[[], float],
    ) -> None:
        self._live = live
        self._care = care
        self._lines = lines
        self._fleet = fleet
        self._outcomes = outcomes
        self._background = background
        self._clock = clock

    def hear(self, line: Line, message: pb.ConnectRequest) -> None:
        match message.WhichOneof("message"):
            case "device_report":
                self._hosted(line, message.device_report)
                for sample in message.device_report.samples:
                    if device := self._device(line, sample.device_id):
                        self._sampled(device, sample)
            case "model_changed":
                if device := self._device(line, message.model_changed.device_id):
                    self._model_changed(device, message.model_changed)
            case "batch_measured":
                if self._device(line, message.batch_measured.device_id):
                    self._care.batch(message.batch_measured)
            case "device_recycled":
                if device := self._device(line, message.device_recycled.device_id):
                    self._care.recycled(device, message.device_recycled)
            case "device_probed":
                if device := self._device(line, message.device_probed.device_id):
                    self._care.probed(device, message.device_probed)
            case "progress":
                self._progress(message.progress)
            case "device_released":
                attempt = message.device_released.attempt
                if row := self._live.holds(attempt.generation_id, attempt.lease_token):
                    if device := self._live.sched.devices.get(row.device):
                        device.ran(row.model)
                    self._fleet.released(attempt.generation_id)
            case "succeeded":
                attempt = message.succeeded.attempt
                self._settle(line, attempt, self._succeeded(message.succeeded))
            case "failed":
                self._settle(line, message.failed.attempt, self._failed(message.failed))
            case "preempted":
                self._settle(line, message.preempted.attempt, self._preempted(message.preempted))
            case other:
                log.warning("unexpected message", node=line.node, message=other)

    def _device(self, line: Line, device_id: str) -> Device | None:
        """The device, if this line speaks for it."""
        mine = self._lines.of(device_id) is line
        return self._live.sched.devices.get(device_id) if mine else None

    def _sampled(self, device: Device, sample: pb.DeviceSample) -> None:
        self._fleet.samples[device.id] = sample
        self._care.sampled(device, sample)
        if sample.healthy and device.id in self._fleet.doubts:
            self._fleet.reconsider(device.id, sample.resident_models)
            device = self._live.sched.devices[device.id]
        self._fleet.settle(device.id)
        if sample.healthy and device.id not in self._fleet.doubts:
            self._correct(device, frozenset(sample.resident_models))

    def _hosted(self, line: Line, report: pb.DeviceReport) -> None:
        """What the node's memory holds now."""
        if before := self._fleet.hosts.get(line.node):
            held = frozenset(report.host_models)
            self._fleet.hosted(
                line.node, Host(before.capacity_bytes, held, report.host_resident_bytes)
            )

    def _correct(self, device: Device, now: frozenset[str]) -> None:
        """Believe what two reports in a row say of a model, against what we thought.

        One may have been taken before a load that was reported since; two mean that its Triton was
        restarted, or that a load's report was lost with an earlier line.
        """
        if device.loading or device.unloading:
            return  # what goes for it may still be there
        thought, models = set(device.resident), self._live.sched.models
        before = self._fleet.reported.get(device.id, thought)
        self._fleet.reported[device.id] = now
        for model in sorted((thought ^ before) & (thought ^ now)):
            if model not in models:
                continue
            there = model in now
            log.warning("residency corrected", device=device.id, model=model, resident=there)
            if not believable(device, model, resident=there, models=models):
                how = "is there, for which it has no room" if there else "is gone under its work"
                self._fleet.distrust(device.id, f"it says that {model} {how}")
                return
            self._changed(device, model, resident=there)

    def _changed(self, device: Device, model: str, *, resident: bool) -> None:
        sched, now = self._live.sched, self._clock()
        if not resident:
            self._live.did(sched.unloaded(device.id, model, now))
        elif device.unloading == model:
            sched.unload_refused(device.id, model, now)
        else:
            self._live.did(sched.loaded(device.id, model, now))

    def _model_changed(self, device: Device, change: pb.ModelChanged) -> None:
        sched, model, now = self._live.sched, change.model, self._clock()
        self._fleet.reported.pop(device.id, None)  # that was before this change, maybe
        if device.id in self._fleet.doubts:
            return  # its next report tells
        self._care.changed(device, change)
        self._counted(device, change)
        self._live.journal.changed(
            device.id, model, resident=change.resident, reason=change.failure.message
        )
        if device.loading != model:
            if believable(device, model, resident=change.resident, models=sched.models):
                self._changed(device, model, resident=change.resident)
            return
        if change.resident:
            log.info("loaded", device=device.id, model=model, seconds=change.seconds)
            self._live.did(sched.loaded(device.id, model, now))
        else:
            failure = failure_from(change.failure)
            log.error("load failed", device=device.id, model=model, reason=failure.message)
            for ticket in sched.load_failed(device.id, model, now):
                self._background.spawn(self._outcomes.unloadable(ticket.id, failure))
        self._live.wake.set()

    def _counted(self, device: Device, change: pb.ModelChanged) -> None:
        heard = self._live.watchers.heard
        if device.loading == change.model:
            heard.loaded(device.id, change.model, change.seconds,
                         from_host=change.from_host_memory, failed=not change.resident)  # fmt: skip
        elif not change.resident:
            heard.unloaded(device.id, change.model)

    def _progress(self, report: pb.AttemptProgress) -> None:
        attempt = report.attempt
        if self._live.holds(attempt.generation_id, attempt.lease_token):
            progress = Progress(report.phase, report.step, report.total_steps, report.step_seconds)
            if 0 < len(report.preview) <= MAX_PREVIEW_BYTES:
                progress = replace(progress, preview=report.preview, preview_step=report.step)
            self._live.watchers.progress(attempt.generation_id, progress)
            listener = self._live.journal.listener
            if report.step_seconds and listener is not None:
                listener.stepped(attempt.generation_id, report.step, report.step_seconds)

    def _ran_badly(self, device: Device, model: str) -> None:
        """The model may be left alone there for a while; the device looks up when that is over."""
        if pause := device.ran_badly(model, self._clock()):
            log.warning("breaker open", device=device.id, model=model, seconds=pause)
            again: list[Decision] = [Boundary(device.id)]
            asyncio.get_running_loop().call_later(pause, self._live.did, again)

    def _settle(self, line: Line, attempt: pb.Attempt, outcome: Awaitable[bool]) -> None:
        """Tell the agent that it may forget the attempt, once its outcome is taken or refused."""

        async def settle() -> None:
            lost = accepted = False
            try:
                accepted = await outcome
            except StorageRefusedError as error:  # it names no generation, for one
                log.error("report refused", node=line.node, error=str(error.__cause__))
            except Exception as error:  # a fault of ours: the work is done again, and not for ever
                log.error("report not taken", node=line.node, exc_info=error)
                lost = True
            line.settle(attempt, accepted=accepted)
            if lost:
                await self._outcomes.lost(attempt.generation_id, attempt.lease_token)

        self._background.spawn(settle())

    async def _succeeded(self, report: pb.AttemptSucceeded) -> bool:
        attempt = report.attempt
        return await self._outcomes.succeeded(
            attempt.generation_id,
            attempt.lease_token,
            [result_from(result) for result in report.results],
            provenance_from(report.provenance),
            encode_seconds=report.encode_seconds,
        )

    async def _preempted(self, report: pb.AttemptPreempted) -> bool:
        attempt = report.attempt
        return await self._outcomes.preempted(
            attempt.generation_id, attempt.lease_token, report.step
        )

    async def _failed(self, report: pb.AttemptFailed) -> bool:
        attempt, failure = report.attempt, failure_from(report.failure)
        key = attempt.generation_id, attempt.lease_token
        if report.cancelled:
            return await self._outcomes.cancelled(*key)
        row = self._live.holds(*key)
        whose = about(row.id, row.tenant, row.trace_parent) if row else {"generation_id": key[0]}
        log.warning("attempt failed", **whose, reason=failure.reason,
                    detail=failure.message, retryable=report.retryable)  # fmt: skip
        device = self._live.sched.devices.get(row.device) if row else None
        if row and device and failure.reason in OF_THE_DEVICE:
            self._ran_badly(device, row.model)
        return await self._outcomes.failed(*key, failure, retryable=report.retryable)
