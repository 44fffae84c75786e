"""SchedulerService: the gateway's calls, one method each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from atelier.errors import (
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from atelier.generation import Generation, State
from atelier.generation_store import GenerationStore
from atelier.rpc import shown_error
from atelier.status import to_status
from atelier.translate import optional_time_from, priority_to, state_from
from atelier.v1 import scheduler_pb2 as pb
from atelier.v1 import scheduler_pb2_grpc as pb_grpc
from scheduler.admission import Admission
from scheduler.background import Background
from scheduler.dispatch import Dispatch
from scheduler.intake import of_request
from scheduler.live import Live
from scheduler.outcomes import Outcomes
from scheduler.present import queued_to, view_to
from scheduler.watchers import View

Context: TypeAlias = grpc.aio.ServicerContext


class SchedulerServicer(pb_grpc.SchedulerServiceServicer):
    """Answers from memory what is live, from the database what has ended."""

    def __init__(
        self,
        store: GenerationStore,
        live: Live,
        admission: Admission,
        dispatch: Dispatch,
        outcomes: Outcomes,
        background: Background,
    ) -> None:
        self._store = store
        self._live = live
        self._admission = admission
        self._dispatch = dispatch
        self._outcomes = outcomes
        self._background = background

    async def SubmitGeneration(
        self, request: pb.SubmitGenerationRequest, context: Context
    ) -> pb.SubmitGenerationResponse:
        (stands,) = await self._admission.accept([request])
        if isinstance(stands, Exception):
            raise stands
        return pb.SubmitGenerationResponse(generation=view_to(self._view(stands), self._live))

    async def SubmitGenerations(
        self, request: pb.SubmitGenerationsRequest, context: Context
    ) -> pb.SubmitGenerationsResponse:
        answers = await self._admission.accept(request.submits)
        return pb.SubmitGenerationsResponse(
            answers=[
                self._answer(submit, answer, brief=request.brief)
                for submit, answer in zip(request.submits, answers, strict=True)
            ]
        )

    async def FindSubmission(
        self, request: pb.FindSubmissionRequest, context: Context
    ) -> pb.FindSubmissionResponse:
        found = await self._store.find(request.tenant, request.request_id)
        if found is None:
            raise NotFoundError(f"request_id {request.request_id} stands for no generation")
        stored = of_request(found, request.request_hash)
        return pb.FindSubmissionResponse(generation=view_to(self._view(stored), self._live))

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
            generations=[view_to(self._view(row), self._live, brief=True) for row in rows]
        )

    async def StopGeneration(
        self, request: pb.StopGenerationRequest, context: Context
    ) -> pb.StopGenerationResponse:
        # Shielded: what the database took, memory must follow, though the caller may have gone.
        stopping = self._background.spawn(self._stop(request.tenant, request.id))
        generation = await asyncio.shield(stopping)
        return pb.StopGenerationResponse(generation=view_to(self._view(generation), self._live))

    async def EraseGeneration(
        self, request: pb.EraseGenerationRequest, context: Context
    ) -> pb.EraseGenerationResponse:
        if not await self._store.erase(request.tenant, [request.id], keep_keys=True):
            await self._find(request.tenant, request.id)
            raise FailedPreconditionError(
                f"generation {request.id} has not ended: cancel it first", reason="NOT_ENDED"
            )
        return pb.EraseGenerationResponse()

    async def FollowGeneration(
        self, request: pb.FollowGenerationRequest, context: Context
    ) -> AsyncIterator[pb.FollowGenerationResponse]:
        changed = self._live.watchers.subscribe(request.id)
        try:
            generation = await self._find(request.tenant, request.id)
            view = self._view(generation)
            while True:
                changed.clear()
                yield pb.FollowGenerationResponse(generation=view_to(view, self._live))
                if view.generation.state.final:
                    return
                if not self._live.watchers.ending:
                    await changed.wait()
                if self._live.watchers.ending:
                    raise UnavailableError("the scheduler ends; another takes over")
                view = self._later(request.id, view)
        finally:
            self._live.watchers.unsubscribe(request.id, changed)

    def _answer(
        self,
        submit: pb.SubmitGenerationRequest,
        accepted: Generation | Exception,
        *,
        brief: bool,
    ) -> pb.SubmitGenerationsAnswer:
        """What became of one of several."""
        if isinstance(accepted, Exception):
            error = to_status(shown_error(accepted, "SubmitGenerations"))
            return pb.SubmitGenerationsAnswer(error=error)
        view = self._view(accepted)
        sent = submit.generation
        as_sent = accepted.id == sent.id and priority_to(accepted.priority) == sent.priority
        if brief and as_sent and view.generation.state is State.QUEUED:
            return pb.SubmitGenerationsAnswer(queued=queued_to(view, self._live))
        return pb.SubmitGenerationsAnswer(generation=view_to(view, self._live))

    async def _stop(self, tenant: str, generation_id: str) -> Generation:
        row = await self._store.request_cancel(tenant, generation_id)
        if row is None:  # it had ended, or is not there
            return await self._find(tenant, generation_id)
        if row.state.final:
            self._outcomes.ended(row)
        else:
            self._dispatch.cancel(row.id)
        return row

    def _view(self, generation: Generation) -> View:
        """What is known of a generation that was just read; a final row is the last word, and
        memory follows it."""
        if generation.state.final:
            self._outcomes.ended(generation)
            return View(generation)
        return self._later(generation.id, View(generation))

    def _later(self, generation_id: str, view: View) -> View:
        """The live view, unless memory is behind what was read or told: as that of a leader which
        was deposed is, and does not know it."""
        live = self._live.watchers.view(generation_id)
        return live if live and live.place >= view.place else view

    async def _find(self, tenant: str, generation_id: str) -> Generation:
        generation = await self._store.read(tenant, generation_id)
        if generation is None:
            raise NotFoundError(f"there is no generation {generation_id}")
        return generation
