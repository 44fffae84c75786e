"""Requests become generations: read, checked, with their pictures kept, and handed on."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TypeAlias

import grpc
from google.rpc import code_pb2

from atelier.catalog import Catalog
from atelier.egress import Egress
from atelier.errors import InvalidArgumentError, Violation
from atelier.generation import Generation, new_id
from atelier.rpc import shown_error
from atelier.spec import MAX_SEED, REQUEST_ID
from atelier.status import to_status
from atelier.translate import generation_to
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import scheduler_pb2
from gateway.batches import TOGETHER, in_messages
from gateway.identity import caller, trace_parent
from gateway.inputs import Inputs
from gateway.overrun import Overrun
from gateway.preset_servicer import Presets
from gateway.presets import Found
from gateway.requests import Asked, asked_of, hash_of
from gateway.scheduler_client import SchedulerClient
from gateway.submits import standing
from gateway.webhook_servicer import understood

Context: TypeAlias = grpc.aio.ServicerContext


class Creation:
    """All that is accepted comes this way, by itself or with others."""

    def __init__(
        self,
        scheduler: SchedulerClient,
        catalog: Catalog,
        inputs: Inputs,
        egress: Egress,
        overrun: Overrun,
    ) -> None:
        self._scheduler = scheduler
        self._overrun = overrun
        self._presets = Presets(scheduler)
        self._catalog = catalog
        self._inputs = inputs
        self._egress = egress

    async def one(
        self, request: pb.CreateGenerationRequest, context: Context, path: str = ""
    ) -> pb.Generation:
        """The generation that was accepted, now or by an earlier call alike.

        Args:
            path: where the request lies in the message sent, such as "create."
        """
        tenant = caller().tenant
        with self._overrun.call(tenant) as came:
            presets = await self._presets.find([request], tenant, self._catalog, context)
            made = await self._make(request, presets, context, path)
            if isinstance(made, pb.Generation):
                return made
            stands = await self._scheduler.submit(_submit(made, request, trace_parent(context)))
            came.taken = 1
            return stands

    async def several(
        self, requests: Sequence[pb.CreateGenerationRequest], context: Context
    ) -> list[pb.CreateGenerationsAnswer]:
        """Each by itself; what is good goes to the scheduler together."""
        with self._overrun.call(caller().tenant) as came:
            answers = await self._several(requests, context)
            came.taken = sum(one.WhichOneof("answer") == "generation" for one in answers)
            came.refused = sum(one.error.code == code_pb2.RESOURCE_EXHAUSTED for one in answers)
            return answers

    async def _several(
        self, requests: Sequence[pb.CreateGenerationRequest], context: Context
    ) -> list[pb.CreateGenerationsAnswer]:
        presets = await self._presets.find(requests, caller().tenant, self._catalog, context)
        answers = [pb.CreateGenerationsAnswer() for _ in requests]
        span = trace_parent(context)
        submits: dict[int, scheduler_pb2.SubmitGenerationRequest] = {}
        for first in range(0, len(requests), TOGETHER):
            some = requests[first : first + TOGETHER]
            made = await asyncio.gather(
                *(self._make(request, presets, context) for request in some),
                return_exceptions=True,
            )
            await asyncio.sleep(0)
            for number, one in enumerate(made, first):
                if isinstance(one, Generation):
                    submits[number] = _submit(one, requests[number], span)
                elif isinstance(one, pb.Generation):
                    answers[number].generation.CopyFrom(one)
                else:
                    _tell(answers[number], one)
        # In the order of the requests, which chance breaks within a millisecond: lists show it,
        # and of several with one request_id the first stands.
        ids = sorted(submit.generation.id for submit in submits.values())
        for submit, id_ in zip(submits.values(), ids, strict=True):
            submit.generation.id = id_
        numbers = iter(submits)
        for together in in_messages(submits.values()):
            try:
                batch = scheduler_pb2.SubmitGenerationsRequest(submits=together, brief=True)
                told = await self._scheduler.submit_all(batch, context)
            except grpc.aio.AioRpcError as error:
                for number in islice(numbers, len(together)):
                    _tell(answers[number], error)
                continue
            for number, answer in zip(islice(numbers, len(together)), told, strict=True):
                if answer.WhichOneof("answer") == "error":
                    answers[number].error.CopyFrom(answer.error)
                else:
                    sent = submits[number].generation
                    answers[number].generation.CopyFrom(standing(sent, answer))
        return answers

    async def _make(
        self,
        request: pb.CreateGenerationRequest,
        presets: Found,
        context: Context,
        path: str = "",
    ) -> Generation | pb.Generation:
        """The generation that a request asks for; as it stands, if it was asked for before and
        could not be again."""
        tenant = caller().tenant  # the work may go to a thread, which knows no caller
        asked = await self._inputs.read(
            request, lambda: self._asked(request, tenant, presets, path)
        )
        wrong = await self._inputs.take(asked.pictures, keep=not asked.bad)
        url, astray = "", list[Violation]()
        if request.webhook_url:
            url, astray = await understood(self._egress, request.webhook_url, f"{path}webhook_url")
        try:
            made = asked.checked([*wrong, *astray])
            return replace(made, webhook_url=url) if url else made
        except InvalidArgumentError:
            if earlier := await self._earlier(request, context):
                return earlier
            raise

    async def _earlier(
        self, request: pb.CreateGenerationRequest, context: Context
    ) -> pb.Generation | None:
        """What came of a request when it was sent before: what made it good then (a preset, a
        deadline that had not passed) may have changed, and it is the same generation all the same.
        """
        if not REQUEST_ID.fullmatch(request.request_id):
            return None
        return await self._scheduler.find(
            caller().tenant, request.request_id, hash_of(request), context
        )

    def _asked(
        self, request: pb.CreateGenerationRequest, tenant: str, presets: Found, path: str
    ) -> Asked:
        return asked_of(
            request,
            catalog=self._catalog,
            tenant=tenant,
            new_id=lambda: new_id(time.time(), secrets.randbits(74)),
            new_seed=lambda: secrets.randbelow(MAX_SEED + 1),
            now=datetime.now(UTC),
            presets=presets,
            path=path,
        )


def _submit(
    made: Generation, request: pb.CreateGenerationRequest, span: str
) -> scheduler_pb2.SubmitGenerationRequest:
    return scheduler_pb2.SubmitGenerationRequest(
        generation=generation_to(made),
        request_hash=made.request_hash,
        trace_parent=span,
        names_no_priority=request.priority == pb.PRIORITY_UNSPECIFIED,
    )


def _tell(answer: pb.CreateGenerationsAnswer, error: BaseException) -> None:
    """One of several went wrong; a cancel is everybody's."""
    if not isinstance(error, Exception):
        raise error
    answer.error.CopyFrom(to_status(shown_error(error, "CreateGenerations")))
