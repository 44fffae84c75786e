"""What happened, as messages: of the whole fleet as it is remembered, of one generation as the
database has kept it, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from atelier.database import Database
from atelier.errors import NotFoundError
from atelier.generation import State
from atelier.translate import state_to, time_to
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2
from scheduler.fleet_view import FleetView
from scheduler.journal import Journal, Moment

NO_STATE = generation_pb2.GENERATION_STATE_UNSPECIFIED
# What the store notes of a generation (atelier/sql/queries.sql), and what that means here.
_EVENTS = {
    "submit": pb.MOMENT_KIND_QUEUED,
    "claim": pb.MOMENT_KIND_RUNNING,
    "requeue": pb.MOMENT_KIND_QUEUED,
    "publish": pb.MOMENT_KIND_ENDED,
    "fail": pb.MOMENT_KIND_ENDED,
    "expire": pb.MOMENT_KIND_ENDED,
    "cancel": pb.MOMENT_KIND_ENDED,
}


class Lives:
    """Reads the journal and the store; writes neither."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        view: FleetView,
        *,
        epoch: int,
        wall: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._journal = journal
        self._view = view
        self._epoch = epoch
        self._wall = wall

    async def moments(self, after: int, limit: int) -> pb.ListMomentsResponse:
        """The next ones after a number, and the devices as they are now."""
        missed, found = self._journal.since(after, limit)
        return pb.ListMomentsResponse(
            moments=[moment_to(moment) for moment in found],
            missed_moments=missed,
            epoch=self._epoch,
            time=time_to(self._wall()),
            devices=await self._view.devices(),
        )

    async def trace(self, generation_id: str) -> pb.TraceGenerationResponse:
        """One generation's life.

        Raises:
            NotFoundError: there is none of that id.
            UnavailableError: the database is away.
        """
        unknown = NotFoundError(f"there is no generation {generation_id}")
        try:
            asked = str(UUID(generation_id))
        except ValueError:
            raise unknown from None
        rows = await self._database.rows("story", id=asked)
        if not rows:
            raise unknown
        return pb.TraceGenerationResponse(
            moments=[moment_to(moment) for moment in self._journal.of(asked)],
            story=[_kept(asked, row) for row in rows if row["event"] in _EVENTS],
            time=time_to(self._wall()),
            model=rows[0]["model"],
            state=state_to(State(rows[0]["state"])),
        )


def moment_to(moment: Moment) -> pb.Moment:
    """One moment as it was noted."""
    return pb.Moment(
        sequence=moment.sequence,
        time=time_to(moment.time),
        kind=pb.MomentKind.Value(f"MOMENT_KIND_{moment.kind}"),
        device_id=moment.device,
        model=moment.model,
        generation_id=moment.generation,
        attempt=moment.attempt,
        phase=generation_pb2.Phase.ValueType(moment.phase),
        state=state_to(moment.state) if moment.state else NO_STATE,
        reason=moment.reason,
        count=moment.rows,
        total_steps=moment.steps,
        failed=moment.failed,
        encode_seconds=moment.seconds,
    )


def _kept(generation_id: str, row: Mapping[str, Any]) -> pb.Moment:
    """One of the store's events."""
    kind, detail = _EVENTS[row["event"]], row["detail"] or {}
    waits = kind == pb.MOMENT_KIND_QUEUED
    return pb.Moment(
        time=time_to(row["time"]),
        kind=kind,
        device_id=detail.get("device", ""),
        model=row["model"],
        generation_id=generation_id,
        attempt=row["attempt"] + 1 if waits else row["attempt"],
        state=state_to(State(row["state"])) if kind == pb.MOMENT_KIND_ENDED else NO_STATE,
        reason=detail.get("reason", ""),
    )
