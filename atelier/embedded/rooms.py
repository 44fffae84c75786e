"""Our own processes: scheduler, agent, gateway and webhooks, started as they are in production, by
`python -m ROOM` with settings from the environment (atelier/config.py)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import atelier
from atelier.embedded.part import Command, NotReadyError, Part
from atelier.rpc import target
from atelier.v1 import fleet_pb2, fleet_pb2_grpc

PROBE_SECONDS = 2.0


@dataclass
class Room(Part):
    """A process of ours that says by gRPC's health service how it is."""

    name: str
    address: str
    settings: Mapping[str, str]
    folder: Path
    needs: tuple[str, ...] = ()
    module: str = ""  # its name, where that is another
    start_seconds = 30.0

    def command(self) -> Command:
        # -P: a scheduler.py in the current folder is not our scheduler.
        code = str(Path(atelier.__file__).parents[1])
        path = os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self.settings}
        return Command(
            (sys.executable, "-P", "-m", self.module or self.name), self.folder, environment
        )

    def probe(self) -> None:
        self.ask(self.address)

    def ask(self, address: str) -> None:
        """Raises NotReadyError: nobody says there that all is well."""
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            try:
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS)
            except grpc.RpcError as error:
                raise NotReadyError(f"no answer at {address}: {error.details()}") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            raise NotReadyError(f"the {self.name} at {address} says {state}")


@dataclass
class Scheduler(Room):
    """One of several, of which one leads and the others have no port open: it is as it should be
    while anyone answers."""

    rivals: tuple[str, ...] = ()

    def probe(self) -> None:
        for address in (self.address, *self.rivals):
            with suppress(NotReadyError):
                return self.ask(address)
        raise NotReadyError(f"no scheduler leads: {', '.join((self.address, *self.rivals))}")


# What an operator drained is as it should be: it waits for him.
USABLE = (
    fleet_pb2.DEVICE_STATE_READY,
    fleet_pb2.DEVICE_STATE_DRAINING,
    fleet_pb2.DEVICE_STATE_DRAINED,
)


@dataclass
class Agent(Room):
    """The agent listens to nobody: it is ready when the scheduler can use its devices."""

    scheduler: str = ""
    devices: tuple[str, ...] = ()

    def probe(self) -> None:
        with grpc.insecure_channel(target(self.scheduler)) as channel:
            fleet = fleet_pb2_grpc.FleetServiceStub(channel)
            try:
                answer = fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=PROBE_SECONDS)
            except grpc.RpcError as error:
                raise NotReadyError(f"the scheduler does not answer: {error.details()}") from error
        known = {device.id: device for device in answer.devices}
        for name in self.devices:
            if name not in known:
                raise NotReadyError(f"the scheduler does not know device {name}")
            device = known[name]
            if device.state not in USABLE:
                state = fleet_pb2.DeviceState.Name(device.state)
                raise NotReadyError(f"device {name} is {state}: {device.reason or 'no reason'}")
