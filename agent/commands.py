"""What the scheduler orders, and what it must hear of it.

Attempts are in one of two books, and in the Hello of every connection:

    running    from Run until the outcome; then
    unsettled  until AttemptSettled arrives; its outcome is sent again after every reconnect

An attempt that the scheduler wants no more (revoked, or settled while it runs) is stopped and
forgotten: nothing is told of it. Commands of an epoch lower than the highest one heard come from a
leader that was deposed and does not know it; they are refused.

Nothing here waits: every command either changes the books at once or starts a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import structlog

from agent.attempt import AttemptRun
from agent.device import Device
from agent.host_memory import HostMemory
from agent.messages import attempt_from, told_to, work_from
from agent.outbox import Outbox
from agent.work import (
    Attempt,
    BatchMeasured,
    DeviceTold,
    Failed,
    ModelChanged,
    Outcome,
    Preempted,
    Probed,
    Progressed,
    Recycled,
    Released,
    Told,
)
from atelier.errors import AtelierError, ExecutionError
from atelier.v1 import agent_pb2 as pb

log = structlog.get_logger()

_Key = tuple[str, int]  # (generation_id, lease_token)


class StaleLeaderError(Exception):
    """The scheduler at the other end is not the leader any more."""


class Commands:
    """The books, and the obeying. One for the life of the agent; connections come and go."""

    def __init__(
        self, devices: Mapping[str, Device], outbox: Outbox, host: HostMemory | None = None
    ) -> None:
        self.epoch = 0  # the highest heard
        self._host = host
        self._devices = devices
        self._outbox = outbox
        self._running: dict[_Key, AttemptRun] = {}
        self._unsettled: dict[_Key, Outcome] = {}
        self._released: dict[_Key, Released] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def attempts(self) -> list[Attempt]:
        """What a Hello names: running or unsettled, and which of them still hold their device."""
        running = [
            replace(run.work.attempt, released=key in self._released)
            for key, run in self._running.items()
        ]
        return running + [replace(o.attempt, released=True) for o in self._unsettled.values()]

    def welcome(self, message: pb.Welcome) -> None:
        """A connection is up: forget what is not wanted, tell again what was not settled.

        Raises:
            StaleLeaderError: a newer leader was heard before.
        """
        if message.epoch < self.epoch:
            raise StaleLeaderError(f"epoch {message.epoch}, but {self.epoch} was heard")
        self.epoch = message.epoch
        for revoked in message.revoked:
            self._forget(_key(attempt_from(revoked)))
        for key, released in self._released.items():
            self._outbox.put(("released", *key), told_to(released))
        for key, outcome in self._unsettled.items():
            self._outbox.put(("outcome", *key), told_to(outcome))

    def obey(self, message: pb.ConnectResponse) -> None:
        """Do what one message says."""
        match message.WhichOneof("message"):
            case "run" if self._current(message.run.epoch, "run"):
                self._run(message.run)
            case "cancel" if self._current(message.cancel.epoch, "cancel"):
                self._cancel(attempt_from(message.cancel.attempt))
            case "preempt" if self._current(message.preempt.epoch, "preempt"):
                self._preempt(attempt_from(message.preempt.attempt))
            case "load_model" if self._current(message.load_model.epoch, "load"):
                self._load(message.load_model)
            case "unload_model" if self._current(message.unload_model.epoch, "unload"):
                self._unload(message.unload_model)
            case "keep_in_host_memory" if self._current(message.keep_in_host_memory.epoch, "keep"):
                if self._host:
                    self._host.keep(message.keep_in_host_memory.models)
            case "recycle_device" if self._current(message.recycle_device.epoch, "recycle"):
                self._recycle(message.recycle_device)
            case "probe_device" if self._current(message.probe_device.epoch, "probe"):
                self._probe(message.probe_device)
            case "settled":
                self._settle(message.settled)

    async def close(self) -> None:
        """Leave what runs; the scheduler queues it again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _current(self, epoch: int, command: str) -> bool:
        if epoch < self.epoch:
            log.warning("command refused", command=command, epoch=epoch, highest=self.epoch)
            return False
        self.epoch = epoch
        return True

    def _run(self, message: pb.RunGeneration) -> None:
        attempt = attempt_from(message.attempt)
        key = _key(attempt)
        if key in self._running or key in self._unsettled:
            return  # told twice
        for other in [*self._running, *self._unsettled]:
            if other[0] == key[0] and other[1] > key[1]:
                log.warning("stale attempt refused", generation_id=key[0], attempt=key[1],
                            tenant=message.generation.tenant)  # fmt: skip
                return
            if other[0] == key[0]:
                self._forget(other)  # the generation was given a newer attempt

        device = self._devices.get(attempt.device_id)
        work = work_from(message)
        try:
            if device is None:
                raise ExecutionError("no such device", retryable=True, reason="DEVICE_UNKNOWN")
            if work is None:
                raise ExecutionError(
                    "this agent cannot make that", retryable=False, reason="NOT_IMPLEMENTED"
                )
            run = device.admit(work, self._hear)
        except ExecutionError as error:
            self._end(key, Failed(attempt, error, retryable=error.retryable))
            return
        self._running[key] = run
        self._start(self._live(key, run))

    async def _live(self, key: _Key, run: AttemptRun) -> None:
        with structlog.contextvars.bound_contextvars(**run.work.whose, attempt=key[1]):
            log.info("attempt started", device=run.work.attempt.device_id, model=run.card.name)
            outcome = await run.run()
            failed = outcome if isinstance(outcome, Failed) else None
            if failed and failed.retryable:
                device = self._devices[failed.attempt.device_id]
                outcome = failed = replace(failed, error=await device.explain(failed.error))
            ended = failed.error.reason if failed else type(outcome).__name__.upper()
            log.info("attempt ended", reason=ended)
        if self._running.get(key) is run:
            del self._running[key]
            self._end(key, outcome)

    def _end(self, key: _Key, outcome: Outcome) -> None:
        self._unsettled[key] = outcome
        self._outbox.put(("outcome", *key), told_to(outcome))

    def _cancel(self, attempt: Attempt) -> None:
        key = _key(attempt)
        if run := self._running.get(key):
            run.cancel()
        elif key not in self._unsettled:  # else its outcome is on its way
            gone = AtelierError("this agent does not have the attempt", reason="ATTEMPT_UNKNOWN")
            gone.code = "CANCELLED"
            failed = Failed(attempt, gone, retryable=False, cancelled=True)
            self._outbox.put(("outcome", *key), told_to(failed))

    def _preempt(self, attempt: Attempt) -> None:
        key = _key(attempt)
        if run := self._running.get(key):
            run.preempt()
        elif key not in self._unsettled:  # it never came, or was forgotten: nothing is lost
            self._outbox.put(("outcome", *key), told_to(Preempted(attempt, 0)))

    def _settle(self, message: pb.AttemptSettled) -> None:
        key = _key(attempt_from(message.attempt))
        if not message.accepted:
            log.info("outcome was not taken", generation_id=key[0], attempt=key[1])
        self._forget(key)

    def _forget(self, key: _Key) -> None:
        if run := self._running.pop(key, None):
            run.cancel()
        self._unsettled.pop(key, None)
        self._released.pop(key, None)
        for kind in ("progress", "preview", "released", "outcome"):
            self._outbox.discard((kind, *key))

    def _load(self, message: pb.LoadModel) -> None:
        if device := self._device_for(message.device_id, message.model):
            self._start(self._change(device, message.model, device.load(message.model)))

    def _unload(self, message: pb.UnloadModel) -> None:
        if device := self._device_for(message.device_id, message.model):
            self._start(self._change(device, message.model, device.unload(message.model)))

    def _device_for(self, device_id: str, model: str) -> Device | None:
        device = self._devices.get(device_id)
        if device is None:
            error = AtelierError("no such device", reason="DEVICE_UNKNOWN")
            error.code = "NOT_FOUND"
            self._hear(ModelChanged(device_id, model, resident=False, seconds=0.0, error=error))
        return device

    async def _change(
        self, device: Device, model: str, change: Coroutine[Any, Any, ModelChanged]
    ) -> None:
        """Carry out a load or an unload; its end is told whatever happens."""
        try:
            changed = await change
        except Exception:
            log.exception("model change failed", device=device.id, model=model)
            broken = ExecutionError("the agent failed at this model", retryable=True)
            resident = model in device.resident
            changed = ModelChanged(device.id, model, resident, seconds=0.0, error=broken)
        self._hear(changed)

    def _recycle(self, message: pb.RecycleDevice) -> None:
        if device := self._devices.get(message.device_id):
            self._start(
                self._try(device.recycle(message.reason), lambda e: Recycled(device.id, 0.0, e))
            )

    def _probe(self, message: pb.ProbeDevice) -> None:
        if device := self._devices.get(message.device_id):
            self._start(self._try(device.probe(message.model), lambda e: Probed(device.id, 0.0, e)))

    async def _try(
        self, work: Coroutine[Any, Any, DeviceTold], broken: Callable[[AtelierError], DeviceTold]
    ) -> None:
        """Do it; its end is told whatever happens."""
        try:
            told = await work
        except Exception:
            log.exception("the agent failed at a device")
            told = broken(ExecutionError("the agent failed at this device", retryable=True))
        self._hear(told)

    def tell(self, told: DeviceTold) -> None:
        """What a device has to say of itself."""
        match told:
            case ModelChanged():
                self._outbox.put(("model", told.device_id, told.model), told_to(told))
            case BatchMeasured():
                key = ("batch", told.device_id, told.model, told.shape, told.rows)
                self._outbox.put(key, told_to(told))
            case Recycled():
                self._outbox.put(("recycled", told.device_id), told_to(told))
            case Probed():
                self._outbox.put(("probed", told.device_id), told_to(told))

    def _hear(self, told: Told) -> None:
        """What devices and running attempts have to say."""
        if isinstance(told, DeviceTold):
            self.tell(told)
            return
        key = _key(told.attempt)
        if key not in self._running:
            return  # forgotten
        if isinstance(told, Progressed):
            # A preview is told after its step: neither takes the other's place.
            kind = "preview" if told.preview else "progress"
            self._outbox.put((kind, *key), told_to(told))
        elif isinstance(told, Released):
            self._released[key] = told
            self._outbox.put(("released", *key), told_to(told))

    def _start(self, life: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(life)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _key(attempt: Attempt) -> _Key:
    return attempt.generation_id, attempt.lease_token
