"""FleetService: what operators see of the fleet, and order; one method each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from atelier.errors import InvalidArgumentError, Violation
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc as pb_grpc
from scheduler.background import Background
from scheduler.fleet_view import FleetView, decision_to
from scheduler.fleet_watch import FleetWatch
from scheduler.live import Live
from scheduler.lives import Lives
from scheduler.orders import Orders
from scheduler.recent import Recent
from scheduler.trace import state_line

Context: TypeAlias = grpc.aio.ServicerContext
Named: TypeAlias = (
    pb.DrainDeviceRequest
    | pb.UndrainDeviceRequest
    | pb.LoadModelRequest
    | pb.UnloadModelRequest
    | pb.PinModelRequest
    | pb.UnpinModelRequest
)

DEFAULT_DECISIONS, MOST_DECISIONS = 100, 1_000
MOST_REASON = 200  # characters
DEFAULT_MOMENTS, MOST_MOMENTS = 1_000, 5_000
INTERVAL_SECONDS = 0.2, 60.0
DEFAULT_INTERVAL_SECONDS = 1.0


class FleetServicer(pb_grpc.FleetServiceServicer):
    """Answers from memory."""

    def __init__(
        self,
        live: Live,
        view: FleetView,
        watch: FleetWatch,
        recent: Recent,
        orders: Orders,
        background: Background,
        lives: Lives,
    ) -> None:
        self._live = live
        self._view = view
        self._watch = watch
        self._recent = recent
        self._orders = orders
        self._background = background
        self._lives = lives

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: Context
    ) -> pb.ListDevicesResponse:
        return pb.ListDevicesResponse(devices=await self._view.devices())

    async def ListQueues(
        self, request: pb.ListQueuesRequest, context: Context
    ) -> pb.ListQueuesResponse:
        return pb.ListQueuesResponse(queues=await self._view.queues())

    async def DrainDevice(
        self, request: pb.DrainDeviceRequest, context: Context
    ) -> pb.DrainDeviceResponse:
        _check(request, "device_id")
        await self._order(self._orders.drain(request.device_id, request.reason))
        return pb.DrainDeviceResponse(device=self._view.device(request.device_id))

    async def UndrainDevice(
        self, request: pb.UndrainDeviceRequest, context: Context
    ) -> pb.UndrainDeviceResponse:
        _check(request, "device_id")
        await self._order(self._orders.undrain(request.device_id))
        return pb.UndrainDeviceResponse(device=self._view.device(request.device_id))

    async def LoadModel(
        self, request: pb.LoadModelRequest, context: Context
    ) -> pb.LoadModelResponse:
        _check(request, "model")
        device_id = self._orders.load(request.model, request.device_id)
        return pb.LoadModelResponse(device=self._view.device(device_id))

    async def UnloadModel(
        self, request: pb.UnloadModelRequest, context: Context
    ) -> pb.UnloadModelResponse:
        _check(request, "model", "device_id")
        self._orders.unload(request.model, request.device_id)
        return pb.UnloadModelResponse(device=self._view.device(request.device_id))

    async def PinModel(self, request: pb.PinModelRequest, context: Context) -> pb.PinModelResponse:
        _check(request, "model", "device_id")
        await self._order(self._orders.pin(request.model, request.device_id))
        return pb.PinModelResponse(device=self._view.device(request.device_id))

    async def UnpinModel(
        self, request: pb.UnpinModelRequest, context: Context
    ) -> pb.UnpinModelResponse:
        _check(request, "model", "device_id")
        await self._order(self._orders.unpin(request.model, request.device_id))
        return pb.UnpinModelResponse(device=self._view.device(request.device_id))

    async def WatchFleet(
        self, request: pb.WatchFleetRequest, context: Context
    ) -> AsyncIterator[pb.WatchFleetResponse]:
        least, most = INTERVAL_SECONDS
        interval, bad = DEFAULT_INTERVAL_SECONDS, []
        if request.HasField("interval_seconds"):
            interval = request.interval_seconds
        if not least <= interval <= most:
            bad.append(Violation("interval_seconds", f"must be {least:g} to {most:g} seconds"))
        if not 0 <= request.past_decisions <= MOST_DECISIONS:
            bad.append(Violation("past_decisions", f"must be 0 to {MOST_DECISIONS}"))
        if bad:
            raise InvalidArgumentError(bad)
        answers = self._watch.follow(interval_seconds=interval, past=request.past_decisions)
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def GetTrace(self, request: pb.GetTraceRequest, context: Context) -> pb.GetTraceResponse:
        if not 0 <= request.limit <= MOST_DECISIONS:
            raise InvalidArgumentError(
                [Violation("limit", f"must be 1 to {MOST_DECISIONS}; 0 for {DEFAULT_DECISIONS}")]
            )
        latest = self._recent.latest(request.limit or DEFAULT_DECISIONS)
        return pb.GetTraceResponse(
            decisions=[decision_to(record) for record in latest],
            state_line=state_line(self._live.sched),
        )

    async def ListMoments(
        self, request: pb.ListMomentsRequest, context: Context
    ) -> pb.ListMomentsResponse:
        bad = []
        if not 0 <= request.limit <= MOST_MOMENTS:
            bad.append(Violation("limit", f"must be 1 to {MOST_MOMENTS}; 0 for {DEFAULT_MOMENTS}"))
        if request.after_sequence < 0:
            bad.append(Violation("after_sequence", "must be 0 or more"))
        if bad:
            raise InvalidArgumentError(bad)
        return await self._lives.moments(request.after_sequence, request.limit or DEFAULT_MOMENTS)

    async def TraceGeneration(
        self, request: pb.TraceGenerationRequest, context: Context
    ) -> pb.TraceGenerationResponse:
        return await self._lives.trace(request.id)

    async def _order(self, order: Coroutine[Any, Any, None]) -> None:
        # Shielded: what the database took, memory must follow, though the caller may have gone.
        await asyncio.shield(self._background.spawn(order))


def _check(request: Named, *needed: str) -> None:
    """Raise InvalidArgumentError where a name is missing, or a text cannot be shown."""
    bad = []
    for field, value in ((f.name, getattr(request, f.name)) for f in request.DESCRIPTOR.fields):
        if field in needed and not value:
            bad.append(Violation(field, "must be given; ListDevices and ListModels tell the names"))
        elif not value.isprintable():  # it is stored, and shown on terminals
            bad.append(Violation(field, "must be printable text on one line"))
        elif field == "reason" and len(value) > MOST_REASON:
            bad.append(Violation(field, f"must be at most {MOST_REASON} characters"))
    if bad:
        raise InvalidArgumentError(bad)
