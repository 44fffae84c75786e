"""Generations in PostgreSQL. The database has the last word: every transition is one conditional
UPDATE (sql/queries.sql), and a method that moves a generation returns it as it then stands, or None
where the guard refused. Every write about a running attempt carries its lease_token, so that
whoever lost the attempt can change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from atelier.database import Database, in_pieces
from atelier.errors import DeletedError, UnavailableError
from atelier.generation import (
    FINAL,
    IN_VAIN,
    Failure,
    Generation,
    Priority,
    Provenance,
    Result,
    State,
    lowest_id,
)
from atelier.spec import stored_spec

PAGE = 500  # rows read at a time, where there may be many
_NO_ID, _HIGHEST_ID = str(UUID(int=0)), str(UUID(int=2**128 - 1))
# An id and the create_time beside it are read from one clock one after the other, between which it
# may have been set; a moment for which it is looked wider afield costs nothing.
CLOCK_SLACK = timedelta(minutes=1)
RESULT_KEYS = ("object_key", "thumbnail_key")  # of a Result: what lies in the object store


class GenerationStore:
    """One process owns the table: the scheduler. All methods raise UnavailableError while the
    database is away; a write that was not acknowledged may have happened, and can be sent again.
    They raise StorageRefusedError for what the database will not take the next time either.
    """

    def __init__(self, dsn: str, *, connections: int = 8) -> None:
        self.database = Database(dsn, connections=connections)

    async def __aenter__(self) -> GenerationStore:
        await self.database.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()

    async def insert(self, generations: Sequence[Generation]) -> list[Generation]:
        """Make generations durable in one commit; for each, the row that stands for it now.

        That is an earlier one where (tenant, request_id) was used before. Safe to send again.

        Raises:
            DeletedError: earlier ones were deleted; all others are stored.
        """
        rows = json.dumps([_row(g) for g in generations], default=vars)  # a spec is a dataclass
        new = {str(row["id"]) for row in await self.database.rows("insert_generations", rows=rows)}
        stands = {g.id: g for g in generations if g.id in new}  # stored as they were sent
        others = [g for g in generations if g.id not in stands]
        if not others:
            return [stands[g.id] for g in generations]
        earlier = await self._submitted(others)
        stands |= {g.id: g for g in earlier}
        by_request = {(g.tenant, g.request_id): g for g in stands.values() if g.request_id}
        missing = {
            g.id: (g.tenant, g.request_id)
            for g in others
            if g.id not in stands and (g.tenant, g.request_id) not in by_request
        }
        if missing:
            rows_of_keys = await self.database.rows("taken_keys", **_request_keys(others))
            taken = {(row["tenant"], row["request_id"]) for row in rows_of_keys}
            if not taken.issuperset(missing.values()):  # retention came between the statements
                raise UnavailableError("the request_id has just expired; try again")
            raise DeletedError(frozenset(missing))
        return [stands.get(g.id) or by_request[g.tenant, g.request_id] for g in generations]

    async def earlier(self, generations: Sequence[Generation]) -> dict[str, Generation]:
        """What stands for those that were stored before, by the ids given; nothing is written."""
        found = await self._submitted(generations)
        by_id = {g.id: g for g in found}
        by_request = {(g.tenant, g.request_id): g for g in found if g.request_id}
        stands = {g.id: by_id.get(g.id) or by_request.get((g.tenant, g.request_id))
                  for g in generations}  # fmt: skip
        return {sent: stored for sent, stored in stands.items() if stored}

    async def _submitted(self, generations: Sequence[Generation]) -> list[Generation]:
        ids = [g.id for g in generations]
        return await self._run("find_submitted", ids=ids, **_request_keys(generations))

    async def find(self, tenant: str, request_id: str) -> Generation | None:
        """What a request_id stands for."""
        return _one(await self._run("find_request", tenant=tenant, request_id=request_id))

    async def read(self, tenant: str, generation_id: str) -> Generation | None:
        return _one(await self._run("read", tenant=tenant, id=generation_id))

    async def look(self, generation_id: str) -> Generation | None:
        """Whosever it is."""
        return _one(await self._run("look", id=generation_id))

    async def published(self, ids: Sequence[str]) -> dict[str, frozenset[str] | None]:
        """Of each that is known: the keys of its results once it has ended, None before."""
        rows = await self.database.rows("published", ids=list(ids)) if ids else []
        return {str(row["id"]): _keys(row["results"]) if row["ended"] else None for row in rows}

    async def scan(
        self,
        tenant: str,
        *,
        before_id: str | None,
        limit: int,
        states: Sequence[State] = (),
        model: str = "",
        labels: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> list[Generation]:
        """A tenant's generations below an id, newest first."""
        first, beyond = _NO_ID, before_id or _HIGHEST_ID
        if created_after:
            first = lowest_id(_moved(created_after, -CLOCK_SLACK))
        if created_before:
            beyond = min(beyond, lowest_id(_moved(created_before, CLOCK_SLACK)))
        wanted = frozenset(states)
        return await self._run(
            "scan",
            tenant=tenant,
            first=first,
            beyond=beyond,
            limit=limit,
            states=[str(s) for s in states] or None,
            open=bool(wanted) and not wanted & FINAL,
            in_vain=bool(wanted) and wanted <= IN_VAIN,
            model=model,
            labels=json.dumps(dict(labels or {})),
            created_after=created_after,
            created_before=created_before,
        )

    async def erase(self, tenant: str, ids: Sequence[str], *, keep_keys: bool) -> frozenset[str]:
        """Forget those of a tenant's generations that have ended; which ones.

        Args:
            keep_keys: their request_ids make no new ones.
        """
        rows = await self.database.rows("erase", tenant=tenant, ids=list(ids), keep_keys=keep_keys)
        return frozenset(str(row["id"]) for row in rows)

    async def past(
        self, tenant: str, retention_days: int, *, limit: int
    ) -> dict[str, frozenset[str]]:
        """Of a tenant's oldest generations that ended and are past its retention: the keys of their
        results."""
        rows = await self.database.rows(
            "past_of_tenant", tenant=tenant, retention_days=retention_days, limit=limit
        )
        return {str(row["id"]): _keys(row["results"]) for row in rows}

    async def unfinished(self) -> list[Generation]:
        """What a scheduler that starts takes up again, oldest first. Page by page, so that it can
        renew its lease meanwhile."""
        found: list[Generation] = []
        after = _NO_ID
        while page := await self._run("unfinished", after=after, limit=PAGE):
            found += page
            after = page[-1].id
        return found

    async def standing(self) -> dict[str, int | None]:
        """Ids of all unfinished generations, with the lease_token of those that run."""
        rows = await self.database.rows("standing")
        return {row["id"]: row["lease_token"] async for row in in_pieces(rows)}

    async def requeued_for(self, generation_id: str, reasons: Sequence[str]) -> int:
        """How often it was queued again for one of these reasons."""
        [row] = await self.database.rows("requeued_for", id=generation_id, reasons=list(reasons))
        return int(row["times"])

    async def claim(self, generation_id: str, device: str) -> Generation | None:
        """QUEUED -> RUNNING with a fresh lease_token; None where it was cancelled meanwhile."""
        return _one(await self._run("claim", id=generation_id, device=device))

    # gpu_seconds: that the attempt took of devices.

    async def publish(
        self,
        generation_id: str,
        token: int,
        results: Sequence[Result],
        provenance: Provenance,
        gpu_seconds: float = 0.0,
    ) -> Generation | None:
        """RUNNING -> SUCCEEDED; None where the attempt was lost."""
        return _one(
            await self._run(
                "publish",
                id=generation_id,
                lease_token=token,
                results=json.dumps([asdict(r) for r in results]),
                provenance=json.dumps(asdict(provenance)),
                gpu_seconds=gpu_seconds,
            )
        )

    async def requeue(
        self, generation_id: str, token: int, reason: str, gpu_seconds: float = 0.0
    ) -> Generation | None:
        """RUNNING -> QUEUED; None where the attempt was lost, or its cancel was asked for."""
        return _one(
            await self._run(
                "requeue",
                id=generation_id,
                lease_token=token,
                detail=json.dumps({"reason": reason}),
                gpu_seconds=gpu_seconds,
            )
        )

    async def fail(
        self, generation_id: str, token: int | None, failure: Failure, gpu_seconds: float = 0.0
    ) -> Generation | None:
        """RUNNING (with its token) or QUEUED (without) -> FAILED."""
        return _one(
            await self._run(
                "fail",
                id=generation_id,
                lease_token=token,
                failure=json.dumps(asdict(failure)),
                gpu_seconds=gpu_seconds,
            )
        )

    async def expire(self, generation_id: str, failure: Failure) -> Generation | None:
        """-> EXPIRED, if its deadline is past by the database's clock."""
        return _one(
            await self._run("expire", id=generation_id, failure=json.dumps(asdict(failure)))
        )

    async def request_cancel(self, tenant: str, generation_id: str) -> Generation | None:
        """QUEUED -> CANCELLED, or the wish recorded of a running one; None where it had ended."""
        return _one(await self._run("request_cancel", tenant=tenant, id=generation_id))

    async def cancel_running(
        self, generation_id: str, token: int, gpu_seconds: float = 0.0
    ) -> Generation | None:
        """RUNNING -> CANCELLED, once its agent stopped it."""
        return _one(
            await self._run(
                "cancel_running", id=generation_id, lease_token=token, gpu_seconds=gpu_seconds
            )
        )

    async def _run(self, query: str, **arguments: Any) -> list[Generation]:
        return [_generation(row) for row in await self.database.rows(query, **arguments)]


def _moved(moment: datetime, by: timedelta) -> datetime:
    """As far as there are dates."""
    try:
        return moment + by
    except OverflowError:
        return moment


def _request_keys(generations: Sequence[Generation]) -> dict[str, list[str]]:
    keyed = [g for g in generations if g.request_id]
    return {
        "tenants": [g.tenant for g in keyed],
        "request_ids": [g.request_id for g in keyed],
    }


def _row(generation: Generation) -> dict[str, Any]:
    deadline = generation.deadline
    return {
        "id": generation.id,
        "tenant": generation.tenant,
        "model": generation.model,
        "spec": generation.spec,
        "priority": generation.priority,
        "labels": dict(generation.labels),
        "request_id": generation.request_id,
        "request_hash": generation.request_hash.hex(),
        "deadline": deadline.isoformat() if deadline else None,
        "create_time": generation.create_time.isoformat(),
        "webhook_url": generation.webhook_url,
        "preset": generation.preset,
        "trace_parent": generation.trace_parent,
    }


def _generation(row: Mapping[str, Any]) -> Generation:
    failure, provenance = row["failure"], row["provenance"]
    return Generation(
        id=str(row["id"]),
        tenant=row["tenant"],
        model=row["model"],
        spec=stored_spec(row["spec"]),
        create_time=row["create_time"],
        state=State(row["state"]),
        attempt=row["attempt"],
        lease_token=row["lease_token"],
        device=row["device"],
        priority=Priority(row["priority"]),
        deadline=row["deadline"],
        labels=row["labels"],
        request_id=row["request_id"],
        request_hash=bytes.fromhex(row["request_hash"]),
        cancel_requested=row["cancel_requested"],
        start_time=row["start_time"],
        finish_time=row["finish_time"],
        results=tuple(Result(**result) for result in row["results"] or ()),
        failure=Failure(**failure) if failure else None,
        provenance=Provenance(**provenance) if provenance else None,
        webhook_url=row["webhook_url"],
        preset=row["preset"],
        trace_parent=row["trace_parent"],
    )


def _keys(results: Sequence[Mapping[str, Any]] | None) -> frozenset[str]:
    named = (result.get(name) for result in results or () for name in RESULT_KEYS)
    return frozenset(key for key in named if key)


def _one(rows: list[Generation]) -> Generation | None:
    return rows[0] if rows else None
