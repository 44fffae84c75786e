"""Looks after devices: what their samples, loads, batches and probes say is compared with what was
thought, and acted upon.

    health.py       when a device takes no new work, and what is to be done about it
    ledger.py       memory that it does not give back
    corrections.py  models that cost other than their cards say

Those decide; here they are asked, and their decisions carried out: quarantine, attempts taken back,
a Triton started anew, probes, models corrected.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

import structlog

from atelier.v1 import agent_pb2 as pb
from scheduler.background import Background
from scheduler.corrections import Correction, Corrections
from scheduler.device import Device
from scheduler.fleet import Fleet
from scheduler.health import Action, Health
from scheduler.ledger import Ledger
from scheduler.lines import Lines
from scheduler.live import Live
from scheduler.outcomes import DEVICE_LOST, Outcomes

log = structlog.get_logger()

TICK_SECONDS = 0.5


class Care:
    """One for all devices. Its methods are called when agents say something, `tick` by a loop."""

    def __init__(
        self,
        live: Live,
        lines: Lines,
        fleet: Fleet,
        outcomes: Outcomes,
        background: Background,
        corrections: Corrections,
        probe_models: Sequence[str],
        *,
        clock: Callable[[], float],
    ) -> None:
        """`probe_models`: those that a device can be tried with, the smallest first."""
        self._live = live
        self._lines = lines
        self._fleet = fleet
        self._outcomes = outcomes
        self._background = background
        self._corrections = corrections
        self._probe_models = probe_models
        self._clock = clock
        self._ledgers: defaultdict[str, Ledger] = defaultdict(Ledger)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.tick()

    def tick(self) -> None:
        """Do what is due: probes, and Tritons of devices that have drained."""
        now = self._clock()
        for device in list(self._live.sched.devices.values()):
            if device.id in self._fleet.lost_since:
                continue
            busy = bool(device.running or device.loading or device.unloading)
            self._act(device, self._health(device).tick(now, busy=busy))
        for gone in self._ledgers.keys() - self._live.sched.devices.keys():
            del self._ledgers[gone]

    def sampled(self, device: Device, sample: pb.DeviceSample) -> None:
        """A report of a device; whether it is quarantined is settled by the caller."""
        health, now = self._health(device), self._clock()
        lost = sample.trouble == pb.DEVICE_TROUBLE_LOST
        sure = lost or sample.trouble == pb.DEVICE_TROUBLE_FAULT
        trouble = "" if sample.healthy else (sample.reason or "its Triton does not answer")
        actions = health.sampled(trouble, now, sure=sure, gone=lost)
        ledger = self._ledgers[device.id]
        if sample.trouble == pb.DEVICE_TROUBLE_TRITON:
            ledger.restarted()  # for all that is known of it
        elif sample.driver_answered and ledger.sampled(
            sample.measured_bytes,
            sample.total_bytes or device.declared,
            moving=bool(device.loading or device.unloading),
            running=frozenset(device.running),
        ):
            kept = f"{ledger.owed:.0f} bytes were not given back after unloads"
            health.keeps_memory(kept, now)
        self._act(device, actions)

    def changed(self, device: Device, change: pb.ModelChanged) -> None:
        """A load or an unload ended."""
        if change.HasField("failure"):
            return
        ledger, names = self._ledgers[device.id], list(change.triton_models)
        if not change.resident:
            told = change.HasField("measured_bytes")
            ledger.unloaded(names, -change.measured_bytes if told else None)
            return
        ledger.loaded(
            names, change.measured_bytes, self._corrections.components.get(change.model, {})
        )
        self._correct(
            self._corrections.loaded(
                change.model,
                names,
                change.measured_bytes,
                change.seconds,
                from_host=change.from_host_memory,
            )
        )

    def batch(self, measured: pb.BatchMeasured) -> None:
        """A batch's composition ended."""
        held = 0
        if measured.quiet_bytes and measured.peak_bytes:
            held = max(0, measured.peak_bytes - measured.quiet_bytes)
        self._correct(
            self._corrections.batch(
                measured.model, measured.shape, measured.rows, measured.step_seconds, held
            )
        )

    def probed(self, device: Device, told: pb.DeviceProbed) -> None:
        """A probe ended."""
        failure = told.failure.message if told.HasField("failure") else ""
        log.info("probed", device=device.id, failure=failure, seconds=round(told.seconds, 2))
        self._act(device, self._health(device).probed(failure, self._clock()))

    def recycled(self, device: Device, told: pb.DeviceRecycled) -> None:
        """Its Triton is a new process, with nothing loaded; or it could not be ended."""
        failure = told.failure.message if told.HasField("failure") else ""
        log.warning("recycled", device=device.id, failure=failure, seconds=round(told.seconds, 2))
        self._health(device).recycled(failure, self._clock())
        # Where it cannot be had anew, it goes on with what is left: the alternative is no device.
        self._ledgers[device.id].restarted()
        if not failure:
            self._fleet.reported.pop(device.id, None)
            in_use = {ticket.model for ticket in device.running.values()}
            for model in set(device.resident) - in_use:
                self._live.did(self._live.sched.unloaded(device.id, model, self._clock()))
        self._fleet.settle(device.id)

    def _health(self, device: Device) -> Health:
        return self._fleet.healths.setdefault(device.id, Health())

    def _act(self, device: Device, actions: list[Action]) -> None:
        reason = self._health(device).reason
        for action in actions:
            match action:
                case Action.TAKE_BACK:
                    self._take_back(device)
                case Action.RECYCLE:
                    self._lines.recycle(device.id, reason)
                case Action.PROBE:
                    self._lines.probe(device.id, self._probe_model(device))
        self._fleet.settle(device.id)

    def _take_back(self, device: Device) -> None:
        """What holds the device is done elsewhere; what only uploads goes on."""
        doubt = self._fleet.doubts.get(device.id)
        for generation_id in [*device.running, *(doubt.held if doubt else ())]:
            row = self._live.running.get(generation_id)
            if row and row.lease_token is not None:
                self._background.spawn(self._outcomes.lost(row.id, row.lease_token, DEVICE_LOST))

    def _probe_model(self, device: Device) -> str:
        """One that is there, or else the smallest that has room; empty where there is none."""
        models = self._live.sched.models
        there = [m for m in self._probe_models if m in device.resident]
        free = device.free(models)
        fits = [m for m in self._probe_models if models[m].weights + models[m].activation <= free]
        return next(iter(there + fits), "")

    def _correct(self, corrections: list[Correction]) -> None:
        for correction in corrections:
            log.info("model corrected", model=correction.model.name, why=correction.reason)
            self._live.sched.correct(correction.model)
        if corrections:
            self._live.wake.set()
