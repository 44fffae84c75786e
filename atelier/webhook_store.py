"""Webhooks and their deliveries in PostgreSQL, as tenants ask for them (sql/webhooks.sql). What
is not the tenant's own is not there. Every write can be sent again. Errors are those of
`Database.rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from atelier.database import Database
from atelier.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError
from atelier.generation import State

MOST_WEBHOOKS = 20  # of a tenant: each is a row for every generation that ends
TENANT_ITSELF = str(UUID(int=0))  # owner of the secret that signs for URLs of single requests
_DISABLED = "the webhook is disabled: enable it first"


@dataclass(frozen=True)
class StoredWebhook:
    """Where a tenant wants to be told of which final states."""

    id: str
    tenant: str
    url: str
    events: tuple[State, ...]
    include_prompts: bool
    description: str
    enabled: bool
    disabled_reason: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True)
class StoredDelivery:
    """An event on its way to one receiver; `finish_time` is None while attempts are left."""

    id: str
    webhook_id: str | None
    type: str
    generation_id: str | None
    attempts: int
    status: int
    detail: str
    delivered: bool
    next_time: datetime
    attempt_time: datetime | None
    create_time: datetime
    finish_time: datetime | None


class WebhookStore:
    """One process writes through it: the scheduler. Workers that deliver have their own line."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(
        self,
        tenant: str,
        webhook_id: str,
        secret: str,
        *,
        url: str,
        events: Sequence[State],
        include_prompts: bool,
        description: str,
    ) -> StoredWebhook:
        """Raises ResourceExhaustedError: the tenant has as many as it may."""
        await self._database.rows(
            "insert_webhook",
            id=webhook_id,
            tenant=tenant,
            secret=secret,
            url=url,
            events=[str(state) for state in events],
            include_prompts=include_prompts,
            description=description,
            most=MOST_WEBHOOKS,
        )
        found = await self.read(tenant, webhook_id)
        if not found:
            raise ResourceExhaustedError(
                f"there are {MOST_WEBHOOKS} webhooks, the most that a tenant may have: delete one",
                reason="TOO_MANY_WEBHOOKS",
            )
        return found[0]

    async def read(self, tenant: str, webhook_id: str | None = None) -> list[StoredWebhook]:
        """One, if it is there; or all of them."""
        rows = await self._database.rows("read_webhooks", tenant=tenant, id=webhook_id)
        return [_webhook(row) for row in rows]

    async def change(
        self,
        tenant: str,
        webhook_id: str,
        *,
        url: str | None,
        events: Sequence[State],
        include_prompts: bool | None,
        description: str | None,
        enabled: bool | None,
    ) -> StoredWebhook:
        """What is None or empty stays. Raises NotFoundError."""
        rows = await self._database.rows(
            "change_webhook",
            id=webhook_id,
            tenant=tenant,
            url=url,
            events=[str(state) for state in events] or None,
            include_prompts=include_prompts,
            description=description,
            enabled=enabled,
        )
        return _webhook(_found(rows, "webhook", webhook_id))

    async def delete(self, tenant: str, webhook_id: str) -> None:
        """Raises NotFoundError."""
        rows = await self._database.rows("delete_webhook", tenant=tenant, id=webhook_id)
        _found(rows, "webhook", webhook_id)

    async def replace_secret(
        self, tenant: str, webhook_id: str, secret: str, overlap_seconds: float
    ) -> datetime:
        """When the one before ceases to sign. `webhook_id`: "" for the tenant's own.

        Raises:
            NotFoundError: there is no such webhook.
        """
        rows = await self._database.rows(
            "rotate_webhook_secret",
            tenant=tenant,
            owner=webhook_id or TENANT_ITSELF,
            secret=secret,
            overlap_seconds=overlap_seconds,
        )
        until: datetime = _found(rows, "webhook", webhook_id)["old_expire_time"]
        return until

    async def insert_test(self, tenant: str, webhook_id: str, delivery_id: str) -> StoredDelivery:
        """Raises NotFoundError, or FailedPreconditionError where it is disabled."""
        _found(await self.read(tenant, webhook_id), "webhook", webhook_id)
        await self._database.rows(
            "insert_test_delivery", tenant=tenant, webhook_id=webhook_id, id=delivery_id
        )
        found = await self.deliveries(tenant, delivery_id=delivery_id, limit=1)
        if not found:
            _found(await self.read(tenant, webhook_id), "webhook", webhook_id)  # gone by now
            raise FailedPreconditionError(_DISABLED, reason="WEBHOOK_DISABLED")
        return found[0]

    async def deliveries(
        self,
        tenant: str,
        *,
        limit: int,
        delivery_id: str | None = None,
        webhook_id: str | None = None,
        generation_id: str | None = None,
        before_id: str | None = None,
    ) -> list[StoredDelivery]:
        """Newest first; what is None does not matter."""
        rows = await self._database.rows(
            "scan_deliveries",
            tenant=tenant,
            id=delivery_id,
            webhook_id=webhook_id,
            generation_id=generation_id,
            before_id=before_id,
            limit=limit,
        )
        return [_delivery(row) for row in rows]

    async def redeliver(self, tenant: str, delivery_id: str) -> StoredDelivery:
        """Raises NotFoundError, or FailedPreconditionError where its webhook is disabled."""
        if rows := await self._database.rows("redeliver", tenant=tenant, id=delivery_id):
            return _delivery(rows[0])
        found = await self.deliveries(tenant, delivery_id=delivery_id, limit=1)
        _found(found, "delivery", delivery_id)
        raise FailedPreconditionError(_DISABLED, reason="WEBHOOK_DISABLED")


def _found(rows: Sequence[Any], kind: str, id_: str) -> Any:
    if not rows:
        raise NotFoundError(f"there is no {kind} {id_}")
    return rows[0]


def _webhook(row: Mapping[str, Any]) -> StoredWebhook:
    values = {field.name: row[field.name] for field in fields(StoredWebhook)}
    events = tuple(State(state) for state in row["events"])
    return StoredWebhook(**{**values, "id": str(row["id"]), "events": events})


def _delivery(row: Mapping[str, Any]) -> StoredDelivery:
    values = {field.name: row[field.name] for field in fields(StoredDelivery)}
    ids = {
        name: str(row[name]) if row[name] else None
        for name in ("id", "webhook_id", "generation_id")
    }
    return StoredDelivery(**{**values, **ids})
