"""SchedulerService: the gateway's calls, one method each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from atelier.errors import NotFoundError, ResourceExhaustedError
from atelier.generation import Generation, State
from atelier.generation_store import GenerationStore
from atelier.translate import generation_from, optional_time_from, state_from
from atelier.v1 import scheduler_pb2 as pb
from atelier.v1 import scheduler_pb2_grpc as pb_grpc
from scheduler.dispatch import Dispatch
from scheduler.fleet import Fleet
from scheduler.intake import Intake
from scheduler.live import Live
from scheduler.present import device_to, queue_to, view_to
from scheduler.watchers import View

Context: TypeAlias = grpc.aio.ServicerContext


class SchedulerServicer(pb_grpc.SchedulerServiceServicer):
    """Answers from memory what is live, from the database what has ended."""

    def __init__(
        self,
        store: GenerationStore,
        live: Live,
        intake: Intake,
        dispatch: Dispatch,
        fleet: Fleet,
        *,
        max_queued: int,
    ) -> None:
        self._store = store
        self._live = live
        self._intake = intake
        self._dispatch = dispatch
        self._fleet = fleet
        self._max_queued = max_queued

    async def SubmitGeneration(
        self, request: pb.SubmitGenerationRequest, context: Context
    ) -> pb.SubmitGenerationResponse:
        if self._live.queued >= self._max_queued:
            raise ResourceExhaustedError(
                f"{self._max_queued} generations wait already; try again later",
                reason="QUEUE_FULL",
                retry_after_seconds=5.0,
            )
        generation = generation_from(request.generation, request.request_hash)
        stored = await self._intake.submit(generation)
        return pb.SubmitGenerationResponse(generation=view_to(self._view(stored), self._live))

    async def ReadGeneration(
        self, request: pb.ReadGenerationRequest, context: Context
    ) -> pb.ReadGenerationResponse:
        generation = await self._find(request.tenant, request.id)
        return pb.ReadGenerationResponse(generation=view_to(self._view(generation), self._live))

    async def ScanGenerations(
        self, request: pb.ScanGenerationsRequest, context: Context
    ) -> pb.ScanGenerationsResponse:
        which = request.filter
        rows = await self._store.scan(
            request.tenant,
            before_id=request.before_id or None,
            limit=request.limit,
            states=[state for n in which.states if (state := state_from(n))],
            model=which.model,
            labels=dict(which.labels),
            created_after=optional_time_from(which, "created_after"),
            created_before=optional_time_from(which, "created_before"),
        )
        return pb.ScanGenerationsResponse(
            generations=[view_to(self._view(row), self._live) for row in rows]
        )

    async def StopGeneration(
        self, request: pb.StopGenerationRequest, context: Context
    ) -> pb.StopGenerationResponse:
        generation = await self._find(request.tenant, request.id)
        row = await self._store.request_cancel(request.tenant, request.id)
        if row is None:  # it had ended
            generation = await self._find(request.tenant, request.id)
        elif row.state is State.CANCELLED:
            self._live.ended(row)
            generation = row
        else:
            self._dispatch.cancel(row.id)
            generation = row
        return pb.StopGenerationResponse(generation=view_to(self._view(generation), self._live))

    async def FollowGeneration(
        self, request: pb.FollowGenerationRequest, context: Context
    ) -> AsyncIterator[pb.FollowGenerationResponse]:
        changed = self._live.watchers.subscribe(request.id)
        try:
            generation = await self._find(request.tenant, request.id)
            while True:
                changed.clear()
                view = self._live.watchers.view(request.id) or View(generation)
                yield pb.FollowGenerationResponse(generation=view_to(view, self._live))
                if view.generation.state.final:
                    return
                await changed.wait()
        finally:
            self._live.watchers.unsubscribe(request.id, changed)

    async def ReadFleet(
        self, request: pb.ReadFleetRequest, context: Context
    ) -> pb.ReadFleetResponse:
        sched = self._live.sched
        return pb.ReadFleetResponse(
            devices=[
                device_to(device, sched, self._fleet)
                for device in sorted(sched.devices.values(), key=lambda d: d.id)
            ],
            queues=[
                queue_to(queue, self._live.now())
                for queue in sorted(sched.queues, key=len, reverse=True)
            ],
        )

    def _view(self, generation: Generation) -> View:
        """The live view, if it is one of this generation still in flight."""
        if generation.state.final:
            return View(generation)
        return self._live.watchers.view(generation.id) or View(generation)

    async def _find(self, tenant: str, generation_id: str) -> Generation:
        generation = await self._store.read(tenant, generation_id)
        if generation is None:
            raise NotFoundError(f"there is no generation {generation_id}")
        return generation
