"""The agents' lines: who is connected, and what is sent to whom. Every command bears the epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from atelier.generation import Generation
from atelier.translate import generation_to
from atelier.v1 import agent_pb2 as pb


@dataclass(eq=False)
class Line:
    """One connected agent: what waits to be sent (None ends the line), and its devices."""

    node: str
    devices: tuple[str, ...]
    outgoing: asyncio.Queue[pb.ConnectResponse | None] = field(default_factory=asyncio.Queue)

    def end(self) -> None:
        self.outgoing.put_nowait(None)

    def settle(self, attempt: pb.Attempt, *, accepted: bool) -> None:
        """Tell the agent that it may forget an attempt."""
        settled = pb.AttemptSettled(attempt=attempt, accepted=accepted)
        self.outgoing.put_nowait(pb.ConnectResponse(settled=settled))


class Lines:
    """One line a node. A device belongs to the line that named it last, whichever node that is."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._of_node: dict[str, Line] = {}
        self._of_device: dict[str, Line] = {}

    def of(self, device_id: str) -> Line | None:
        return self._of_device.get(device_id)

    def open(self, node: str, devices: tuple[str, ...]) -> tuple[Line, list[str]]:
        """A node's line, in place of its earlier one; and the devices that it has no more."""
        line, old = Line(node, devices), self._of_node.get(node)
        if old:
            old.end()
        self._of_node[node] = line
        self._of_device |= dict.fromkeys(devices, line)
        return line, self._forget(old) if old else []

    def close(self, line: Line) -> list[str]:
        """The line broke; the devices that nobody answers for now."""
        if self._of_node.get(line.node) is line:
            del self._of_node[line.node]
        return self._forget(line)

    def end_all(self) -> None:
        """The agents will connect to whoever serves next."""
        for line in self._of_node.values():
            line.end()

    def _forget(self, line: Line) -> list[str]:
        mine = [device for device in line.devices if self._of_device.get(device) is line]
        for device in mine:
            del self._of_device[device]
        return mine

    # Commands. Each says whether there was a line to send it on.

    def run(self, generation: Generation, rows: int, *, alone: bool = False) -> bool:
        """`generation` as it was claimed, with its lease_token and device; `rows` at once, in calls
        that it shares with nobody where it is to be `alone`."""
        run = pb.RunGeneration(
            attempt=_attempt(generation),
            epoch=self.epoch,
            generation=generation_to(generation),
            rows=rows,
            alone=alone,
            trace_parent=generation.trace_parent,
        )
        run.generation.ClearField("webhook_url")  # it may hold a secret, and is no agent's business
        return self._send(generation.device, pb.ConnectResponse(run=run))

    def cancel(self, generation: Generation) -> bool:
        """Stop an attempt at its next step."""
        cancel = pb.CancelAttempt(attempt=_attempt(generation), epoch=self.epoch)
        return self._send(generation.device, pb.ConnectResponse(cancel=cancel))

    def preempt(self, generation: Generation) -> bool:
        """Take an attempt off its device at its next step."""
        preempt = pb.PreemptAttempt(attempt=_attempt(generation), epoch=self.epoch)
        return self._send(generation.device, pb.ConnectResponse(preempt=preempt))

    def load(self, device_id: str, model: str) -> bool:
        command = pb.LoadModel(device_id=device_id, model=model, epoch=self.epoch)
        return self._send(device_id, pb.ConnectResponse(load_model=command))

    def unload(self, device_id: str, model: str) -> bool:
        command = pb.UnloadModel(device_id=device_id, model=model, epoch=self.epoch)
        return self._send(device_id, pb.ConnectResponse(unload_model=command))

    def recycle(self, device_id: str, reason: str) -> bool:
        """Start its Triton anew."""
        command = pb.RecycleDevice(device_id=device_id, reason=reason, epoch=self.epoch)
        return self._send(device_id, pb.ConnectResponse(recycle_device=command))

    def probe(self, device_id: str, model: str) -> bool:
        """Try whether it works, with a model where one is named."""
        command = pb.ProbeDevice(device_id=device_id, model=model, epoch=self.epoch)
        return self._send(device_id, pb.ConnectResponse(probe_device=command))

    def keep_in_host_memory(self, node: str, models: Sequence[str]) -> bool:
        """Hold these models' files in the node's memory, and no others; the first matter most."""
        line = self._of_node.get(node)
        if line:
            command = pb.KeepInHostMemory(models=models, epoch=self.epoch)
            line.outgoing.put_nowait(pb.ConnectResponse(keep_in_host_memory=command))
        return line is not None

    def _send(self, device_id: str, command: pb.ConnectResponse) -> bool:
        line = self._of_device.get(device_id)
        if line:
            line.outgoing.put_nowait(command)
        return line is not None


def _attempt(generation: Generation) -> pb.Attempt:
    assert generation.lease_token is not None
    return pb.Attempt(
        generation_id=generation.id,
        lease_token=generation.lease_token,
        device_id=generation.device,
    )
