"""FleetService: what the scheduler sees, for operators."""

from __future__ import annotations

from typing import TypeAlias

import grpc

from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc as pb_grpc
from gateway.scheduler_client import SchedulerClient

Context: TypeAlias = grpc.aio.ServicerContext


class FleetServicer(pb_grpc.FleetServiceServicer):
    """Asks the scheduler."""

    def __init__(self, scheduler: SchedulerClient) -> None:
        self._scheduler = scheduler

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: Context
    ) -> pb.ListDevicesResponse:
        return pb.ListDevicesResponse(devices=(await self._scheduler.fleet(context)).devices)

    async def ListQueues(
        self, request: pb.ListQueuesRequest, context: Context
    ) -> pb.ListQueuesResponse:
        return pb.ListQueuesResponse(queues=(await self._scheduler.fleet(context)).queues)
