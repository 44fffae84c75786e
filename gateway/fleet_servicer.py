"""FleetService: the scheduler's own, for callers outside. It checks and answers; this hands on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeAlias

import grpc

from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc as pb_grpc
from gateway.scheduler_client import SchedulerClient

Context: TypeAlias = grpc.aio.ServicerContext


class FleetServicer(pb_grpc.FleetServiceServicer):
    """Every call within its caller's deadline; what is wrong with it, the scheduler says."""

    def __init__(self, scheduler: SchedulerClient) -> None:
        self._scheduler = scheduler

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: Context
    ) -> pb.ListDevicesResponse:
        return await self._scheduler.ask(self._scheduler.fleet.ListDevices, request, context)

    async def ListQueues(
        self, request: pb.ListQueuesRequest, context: Context
    ) -> pb.ListQueuesResponse:
        return await self._scheduler.ask(self._scheduler.fleet.ListQueues, request, context)

    async def DrainDevice(
        self, request: pb.DrainDeviceRequest, context: Context
    ) -> pb.DrainDeviceResponse:
        return await self._scheduler.ask(self._scheduler.fleet.DrainDevice, request, context)

    async def UndrainDevice(
        self, request: pb.UndrainDeviceRequest, context: Context
    ) -> pb.UndrainDeviceResponse:
        return await self._scheduler.ask(self._scheduler.fleet.UndrainDevice, request, context)

    async def LoadModel(
        self, request: pb.LoadModelRequest, context: Context
    ) -> pb.LoadModelResponse:
        return await self._scheduler.ask(self._scheduler.fleet.LoadModel, request, context)

    async def UnloadModel(
        self, request: pb.UnloadModelRequest, context: Context
    ) -> pb.UnloadModelResponse:
        return await self._scheduler.ask(self._scheduler.fleet.UnloadModel, request, context)

    async def PinModel(self, request: pb.PinModelRequest, context: Context) -> pb.PinModelResponse:
        return await self._scheduler.ask(self._scheduler.fleet.PinModel, request, context)

    async def UnpinModel(
        self, request: pb.UnpinModelRequest, context: Context
    ) -> pb.UnpinModelResponse:
        return await self._scheduler.ask(self._scheduler.fleet.UnpinModel, request, context)

    async def GetTrace(self, request: pb.GetTraceRequest, context: Context) -> pb.GetTraceResponse:
        return await self._scheduler.ask(self._scheduler.fleet.GetTrace, request, context)

    async def ListMoments(
        self, request: pb.ListMomentsRequest, context: Context
    ) -> pb.ListMomentsResponse:
        return await self._scheduler.ask(self._scheduler.fleet.ListMoments, request, context)

    async def TraceGeneration(
        self, request: pb.TraceGenerationRequest, context: Context
    ) -> pb.TraceGenerationResponse:
        return await self._scheduler.ask(self._scheduler.fleet.TraceGeneration, request, context)

    async def WatchFleet(
        self, request: pb.WatchFleetRequest, context: Context
    ) -> AsyncIterator[pb.WatchFleetResponse]:
        async with aclosing(self._scheduler.watch_fleet(request)) as answers:
            async for answer in answers:
                yield answer
