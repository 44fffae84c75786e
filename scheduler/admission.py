"""Who is let in: every submit passes here, by itself or with others.

What a tenant's plan or a full queue would refuse is looked up first: a retry of what was accepted,
whose answer was lost, needs no room, and is told what stands for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.metrics import Meter

from atelier.errors import AtelierError, ResourceExhaustedError, UnavailableError
from atelier.generation import Generation
from atelier.instruments import REFUSALS
from atelier.metrics import counter
from atelier.translate import generation_from
from atelier.v1 import scheduler_pb2 as pb
from scheduler.intake import Intake
from scheduler.live import Live


class Admission:
    """Before the intake. `max_queued`: generations that may wait, of all tenants together."""

    def __init__(self, live: Live, intake: Intake, max_queued: int, meter: Meter) -> None:
        self._live = live
        self._intake = intake
        self._max_queued = max_queued
        self._coming: Counter[str] = Counter()  # let in and not stored yet, of each tenant
        self._refusals = counter(meter, REFUSALS)

    async def accept(
        self, submits: Sequence[pb.SubmitGenerationRequest]
    ) -> list[Generation | Exception]:
        """For each what stands for it, or why nothing does."""
        answers: list[Generation | Exception] = []
        taken: dict[int, Generation] = {}  # by their places
        refused: dict[int, tuple[Generation, AtelierError]] = {}
        listener = self._live.journal.listener
        for place, submit in enumerate(submits):
            if listener is not None:
                listener.reached(submit.generation.id)
            try:
                generation = self._read(submit)
            except Exception as error:
                answers.append(error)
                continue
            answers.append(generation)
            if why := self._refusal(generation, len(taken)):
                refused[place] = generation, why
            else:
                taken[place] = generation
                self._coming[generation.tenant] += 1
        try:
            stored = await self._intake.submit_all([*taken.values()])
        finally:
            self._coming.subtract(one.tenant for one in taken.values())
            self._coming += Counter()  # those with none are forgotten
        earlier = await self._earlier([*refused.values()])
        for places, stand in ((taken, stored), (refused, earlier)):
            for place, stands in zip(places, stand, strict=True):
                answers[place] = stands
        return answers

    def _read(self, submit: pb.SubmitGenerationRequest) -> Generation:
        generation = generation_from(submit.generation, submit.request_hash, submit.trace_parent)
        if not submit.names_no_priority:
            return generation
        lowered = self._live.limits.lowered(generation.tenant, generation.priority)
        if lowered is generation.priority:
            return generation
        return replace(generation, priority=lowered)

    def _refusal(self, generation: Generation, more: int) -> AtelierError | None:
        """Why it is not let in, beside `more` of the same message; None where it is."""
        if self._live.queued + self._intake.submitting + more >= self._max_queued:
            return ResourceExhaustedError(
                f"{self._max_queued} generations wait already; try again later",
                reason="QUEUE_FULL",
                retry_after_seconds=5.0,
            )
        tenant, watchers = generation.tenant, self._live.watchers
        coming = self._coming[tenant]
        return self._live.limits.refusal(
            tenant,
            generation.priority,
            waiting=watchers.waiting[tenant] + coming,
            unfinished=watchers.unfinished[tenant] + coming,
            now=self._live.now(),
        )

    async def _earlier(
        self, refused: Sequence[tuple[Generation, AtelierError]]
    ) -> list[Generation | Exception]:
        """What stands for those that were accepted before; the others are refused."""
        try:
            stands = await self._intake.earlier([generation for generation, _ in refused])
        except UnavailableError as error:
            return [error] * len(refused)
        answers: list[Generation | Exception] = []
        for generation, why in refused:
            answers.append(stands.get(generation.id, why))
            if generation.id not in stands:
                quota = why.metadata.get("quota", "")
                self._refusals.add(1, {"reason": why.reason, "quota": quota})
        return answers
