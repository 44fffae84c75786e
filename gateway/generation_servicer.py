"""GenerationService: the public calls, one method each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from atelier.catalog import Catalog
from atelier.egress import PUBLIC_ONLY, Egress
from atelier.errors import FailedPreconditionError
from atelier.failpoints import failpoint
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc as pb_grpc
from atelier.v1 import scheduler_pb2
from gateway.batches import check_number, within_bounds
from gateway.creation import Creation
from gateway.identity import caller
from gateway.inputs import Inputs
from gateway.overrun import Overrun
from gateway.requests import (
    checked_id,
    fits_page,
    page_of,
    page_token,
)
from gateway.results import Results
from gateway.scheduler_client import SchedulerClient

Context: TypeAlias = grpc.aio.ServicerContext


class GenerationServicer(pb_grpc.GenerationServiceServicer):
    """Checks, translates, hands on."""

    def __init__(
        self,
        scheduler: SchedulerClient,
        catalog: Catalog,
        inputs: Inputs,
        results: Results,
        egress: Egress = PUBLIC_ONLY,
        overrun: Overrun | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._creation = Creation(scheduler, catalog, inputs, egress, overrun or Overrun())
        self._inputs = inputs
        self._results = results

    async def CreateGeneration(
        self, request: pb.CreateGenerationRequest, context: Context
    ) -> pb.CreateGenerationResponse:
        with self._inputs.room_for(request):
            generation = await self._creation.one(request, context)
        failpoint("create_before_answer")
        return pb.CreateGenerationResponse(generation=await self._complete(generation))

    async def CreateGenerations(
        self, request: pb.CreateGenerationsRequest, context: Context
    ) -> pb.CreateGenerationsResponse:
        check_number(request)
        with self._inputs.room_for(request):
            answers = await self._creation.several(request.requests, context)
        for answer in answers:
            if answer.WhichOneof("answer") == "generation":
                await self._complete(answer.generation)
        return within_bounds(answers)

    async def GetGeneration(
        self, request: pb.GetGenerationRequest, context: Context
    ) -> pb.GetGenerationResponse:
        found = await self._scheduler.read(caller().tenant, checked_id(request.id), context)
        return pb.GetGenerationResponse(
            generation=await self._complete(found, inline=request.inline_results)
        )

    async def ListGenerations(
        self, request: pb.ListGenerationsRequest, context: Context
    ) -> pb.ListGenerationsResponse:
        size, before = page_of(request, caller().tenant)
        scan = scheduler_pb2.ScanGenerationsRequest(
            tenant=caller().tenant, filter=request.filter, before_id=before, limit=size + 1
        )
        found = await self._scheduler.scan(scan, context)
        page = [await self._complete(generation) for generation in found[:size]]
        page = page[: fits_page(generation.ByteSize() for generation in page)]
        more = len(found) > len(page)
        return pb.ListGenerationsResponse(
            generations=page,
            next_page_token=page_token(request, caller().tenant, page[-1].id) if more else "",
        )

    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: Context
    ) -> pb.CancelGenerationResponse:
        found = await self._scheduler.stop(caller().tenant, checked_id(request.id), context)
        return pb.CancelGenerationResponse(generation=await self._complete(found))

    async def DeleteGeneration(
        self, request: pb.DeleteGenerationRequest, context: Context
    ) -> pb.DeleteGenerationResponse:
        found = await self._scheduler.read(caller().tenant, checked_id(request.id), context)
        if not found.HasField("finish_time"):
            raise FailedPreconditionError(
                f"generation {found.id} has not ended: cancel it first", reason="NOT_ENDED"
            )
        # The files first: whoever is cut off in between can still find them, and does it again.
        await self._results.delete(found)
        await self._scheduler.erase(caller().tenant, found.id, context)
        return pb.DeleteGenerationResponse()

    async def WatchGeneration(
        self, request: pb.WatchGenerationRequest, context: Context
    ) -> AsyncIterator[pb.WatchGenerationResponse]:
        async for view in self._scheduler.follow(caller().tenant, checked_id(request.id)):
            generation = await self._complete(view, inline=request.inline_results)
            yield pb.WatchGenerationResponse(generation=generation)

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        with self._inputs.room_for(request):
            created = await self._creation.one(request.create, context, path="create.")
            async for view in self._scheduler.follow(caller().tenant, created.id):
                generation = await self._complete(view, inline=request.inline_results)
                yield pb.GenerateResponse(generation=generation)

    async def _complete(self, generation: pb.Generation, *, inline: bool = False) -> pb.Generation:
        return await self._results.complete(generation, inline=inline)
