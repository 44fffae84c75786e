"""GenerationService: the public calls, one method each."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TypeAlias

import grpc

from atelier.catalog import Catalog
from atelier.errors import InvalidArgumentError
from atelier.generation import new_id
from atelier.spec import MAX_SEED, REQUEST_ID
from atelier.translate import generation_to
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc as pb_grpc
from atelier.v1 import scheduler_pb2
from gateway.inputs import Inputs
from gateway.preset_servicer import Presets
from gateway.presets import Found
from gateway.requests import (
    Asked,
    asked_of,
    checked_id,
    fits_page,
    hash_of,
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
        tenant: str,
    ) -> None:
        self._scheduler = scheduler
        self._presets = Presets(scheduler)
        self._catalog = catalog
        self._inputs = inputs
        self._results = results
        self._tenant = tenant  # everyone's on loopback, until there is identity

    async def CreateGeneration(
        self, request: pb.CreateGenerationRequest, context: Context
    ) -> pb.CreateGenerationResponse:
        with self._inputs.room_for(request):
            generation = await self._create(request, context)
        return pb.CreateGenerationResponse(generation=await self._complete(generation))

    async def GetGeneration(
        self, request: pb.GetGenerationRequest, context: Context
    ) -> pb.GetGenerationResponse:
        found = await self._scheduler.read(self._tenant, checked_id(request.id), context)
        return pb.GetGenerationResponse(
            generation=await self._complete(found, inline=request.inline_results)
        )

    async def ListGenerations(
        self, request: pb.ListGenerationsRequest, context: Context
    ) -> pb.ListGenerationsResponse:
        size, before = page_of(request, self._tenant)
        scan = scheduler_pb2.ScanGenerationsRequest(
            tenant=self._tenant, filter=request.filter, before_id=before, limit=size + 1
        )
        found = await self._scheduler.scan(scan, context)
        page = [await self._complete(generation) for generation in found[:size]]
        page = page[: fits_page(generation.ByteSize() for generation in page)]
        more = len(found) > len(page)
        return pb.ListGenerationsResponse(
            generations=page,
            next_page_token=page_token(request, self._tenant, page[-1].id) if more else "",
        )

    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: Context
    ) -> pb.CancelGenerationResponse:
        found = await self._scheduler.stop(self._tenant, checked_id(request.id), context)
        return pb.CancelGenerationResponse(generation=await self._complete(found))

    async def WatchGeneration(
        self, request: pb.WatchGenerationRequest, context: Context
    ) -> AsyncIterator[pb.WatchGenerationResponse]:
        async for view in self._scheduler.follow(self._tenant, checked_id(request.id)):
            generation = await self._complete(view, inline=request.inline_results)
            yield pb.WatchGenerationResponse(generation=generation)

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        with self._inputs.room_for(request):
            created = await self._create(request.create, context, path="create.")
            async for view in self._scheduler.follow(self._tenant, created.id):
                generation = await self._complete(view, inline=request.inline_results)
                yield pb.GenerateResponse(generation=generation)

    async def _create(
        self, request: pb.CreateGenerationRequest, context: Context, path: str = ""
    ) -> pb.Generation:
        presets = await self._presets.find([request], self._tenant, self._catalog, context)
        asked = await self._inputs.read(request, lambda: self._asked(request, presets, path))
        wrong = await self._inputs.take(asked.pictures, keep=not asked.bad)
        try:
            generation = asked.checked(wrong)
        except InvalidArgumentError:
            if earlier := await self._earlier(request, context):
                return earlier
            raise
        message = generation_to(generation)
        return await self._scheduler.submit(message, generation.request_hash, context)

    async def _earlier(
        self, request: pb.CreateGenerationRequest, context: Context
    ) -> pb.Generation | None:
        """What came of a request when it was sent before: what made it good then (a preset, a
        deadline that had not passed) may have changed, and it is the same generation all the same.
        """
        if not REQUEST_ID.fullmatch(request.request_id):
            return None
        return await self._scheduler.find(
            self._tenant, request.request_id, hash_of(request), context
        )

    def _asked(self, request: pb.CreateGenerationRequest, presets: Found, path: str) -> Asked:
        return asked_of(
            request,
            catalog=self._catalog,
            tenant=self._tenant,
            new_id=lambda: new_id(time.time(), secrets.randbits(74)),
            new_seed=lambda: secrets.randbelow(MAX_SEED + 1),
            now=datetime.now(UTC),
            presets=presets,
            path=path,
        )

    async def _complete(self, generation: pb.Generation, *, inline: bool = False) -> pb.Generation:
        return await self._results.complete(generation, inline=inline)
