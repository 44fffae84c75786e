"""WebhookService: the public calls, one method each. What a URL leads to is asked here; events are
sent by another process (webhooks/), which asks again."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from typing import TypeAlias
from uuid import uuid4

import grpc

from atelier.addresses import RefusedError
from atelier.egress import Egress
from atelier.errors import Violation, refuse
from atelier.v1 import webhook_pb2 as pb
from atelier.v1 import webhook_pb2_grpc as pb_grpc
from atelier.v1 import webhook_store_pb2 as store_pb
from gateway.identity import caller
from gateway.scheduler_client import SchedulerClient
from gateway.webhooks import (
    ALL_EVENTS,
    id_of,
    overlap_of,
    page_size_of,
    webhook_violations,
)

Context: TypeAlias = grpc.aio.ServicerContext

SECRET_BYTES = 32
TEST_SECONDS, LOOK_SECONDS = 20.0, 0.2  # for a test's answer, and between two looks for it


class WebhookServicer(pb_grpc.WebhookServiceServicer):
    """Checks, draws ids and secrets, hands on."""

    def __init__(self, scheduler: SchedulerClient, egress: Egress) -> None:
        self._scheduler = scheduler
        self._store = scheduler.webhooks
        self._egress = egress

    async def CreateWebhook(
        self, request: pb.CreateWebhookRequest, context: Context
    ) -> pb.CreateWebhookResponse:
        url, bad = await understood(self._egress, request.url, "url")
        refuse([*bad, *webhook_violations(request)])
        webhook = pb.Webhook(
            id=str(uuid4()),
            url=url,
            events=request.events or ALL_EVENTS,
            include_prompts=request.include_prompts,
            description=request.description,
        )
        secret = new_secret()
        asked = store_pb.InsertWebhookRequest(
            tenant=caller().tenant, webhook=webhook, secret=secret
        )
        answer: store_pb.InsertWebhookResponse = await self._scheduler.ask(
            self._store.InsertWebhook, asked, context
        )
        return pb.CreateWebhookResponse(webhook=answer.webhook, secret=secret)

    async def GetWebhook(
        self, request: pb.GetWebhookRequest, context: Context
    ) -> pb.GetWebhookResponse:
        [webhook] = await self._read(id_of(request.id), context)
        return pb.GetWebhookResponse(webhook=webhook)

    async def ListWebhooks(
        self, request: pb.ListWebhooksRequest, context: Context
    ) -> pb.ListWebhooksResponse:
        return pb.ListWebhooksResponse(webhooks=await self._read("", context))

    async def UpdateWebhook(
        self, request: pb.UpdateWebhookRequest, context: Context
    ) -> pb.UpdateWebhookResponse:
        change = pb.UpdateWebhookRequest()
        change.CopyFrom(request)
        change.id = id_of(request.id)
        bad: list[Violation] = []
        if request.HasField("url"):
            change.url, bad = await understood(self._egress, request.url, "url")
        refuse([*bad, *webhook_violations(request)])
        asked = store_pb.ChangeWebhookRequest(tenant=caller().tenant, change=change)
        answer: store_pb.ChangeWebhookResponse = await self._scheduler.ask(
            self._store.ChangeWebhook, asked, context
        )
        return pb.UpdateWebhookResponse(webhook=answer.webhook)

    async def DeleteWebhook(
        self, request: pb.DeleteWebhookRequest, context: Context
    ) -> pb.DeleteWebhookResponse:
        asked = store_pb.EraseWebhookRequest(tenant=caller().tenant, id=id_of(request.id))
        await self._scheduler.ask(self._store.EraseWebhook, asked, context)
        return pb.DeleteWebhookResponse()

    async def RotateSecret(
        self, request: pb.RotateSecretRequest, context: Context
    ) -> pb.RotateSecretResponse:
        secret = new_secret()
        asked = store_pb.ReplaceSecretRequest(
            tenant=caller().tenant,
            id=id_of(request.id) if request.id else "",
            secret=secret,
            overlap_seconds=overlap_of(request),
        )
        answer: store_pb.ReplaceSecretResponse = await self._scheduler.ask(
            self._store.ReplaceSecret, asked, context
        )
        return pb.RotateSecretResponse(secret=secret, old_expire_time=answer.old_expire_time)

    async def TestWebhook(
        self, request: pb.TestWebhookRequest, context: Context
    ) -> pb.TestWebhookResponse:
        asked = store_pb.InsertTestRequest(
            tenant=caller().tenant, webhook_id=id_of(request.id), id=str(uuid4())
        )
        answer: store_pb.InsertTestResponse = await self._scheduler.ask(
            self._store.InsertTest, asked, context
        )
        return pb.TestWebhookResponse(delivery=await self._ended(answer.delivery, context))

    async def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: Context
    ) -> pb.ListDeliveriesResponse:
        size = page_size_of(request)
        asked = store_pb.ScanDeliveriesRequest(
            tenant=caller().tenant,
            webhook_id=request.webhook_id,
            generation_id=request.generation_id,
            before_id=request.page_token,
            limit=size + 1,
        )
        found = await self._scan(asked, context)
        token = found[size - 1].id if len(found) > size else ""
        return pb.ListDeliveriesResponse(deliveries=found[:size], next_page_token=token)

    async def RedeliverWebhook(
        self, request: pb.RedeliverWebhookRequest, context: Context
    ) -> pb.RedeliverWebhookResponse:
        asked = store_pb.RenewDeliveryRequest(tenant=caller().tenant, id=id_of(request.id))
        answer: store_pb.RenewDeliveryResponse = await self._scheduler.ask(
            self._store.RenewDelivery, asked, context
        )
        return pb.RedeliverWebhookResponse(delivery=answer.delivery)

    async def _read(self, webhook_id: str, context: Context) -> list[pb.Webhook]:
        asked = store_pb.ReadWebhooksRequest(tenant=caller().tenant, id=webhook_id)
        answer: store_pb.ReadWebhooksResponse = await self._scheduler.ask(
            self._store.ReadWebhooks, asked, context
        )
        return list(answer.webhooks)

    async def _scan(
        self, asked: store_pb.ScanDeliveriesRequest, context: Context
    ) -> list[pb.Delivery]:
        answer: store_pb.ScanDeliveriesResponse = await self._scheduler.ask(
            self._store.ScanDeliveries, asked, context
        )
        return list(answer.deliveries)

    async def _ended(self, delivery: pb.Delivery, context: Context) -> pb.Delivery:
        """The delivery once its attempt was made; as it is where that takes too long."""
        left = context.time_remaining()
        patience = TEST_SECONDS if left is None else min(TEST_SECONDS, left / 2)
        asked = store_pb.ScanDeliveriesRequest(tenant=caller().tenant, id=delivery.id, limit=1)
        until = time.monotonic() + patience
        while delivery.state == pb.DELIVERY_STATE_PENDING and time.monotonic() < until:
            await asyncio.sleep(LOOK_SECONDS)
            [delivery] = await self._scan(asked, context) or [delivery]
        return delivery


async def understood(egress: Egress, url: str, field: str) -> tuple[str, list[Violation]]:
    """A URL as it is stored, or what is wrong with it: the same whatever that is, so that nobody
    finds out what there is."""
    try:
        target, _ = await egress.resolve(url)
    except RefusedError:
        return "", [Violation(field, egress.rules.refusal)]
    return target.url, []


def new_secret() -> str:
    """As Standard Webhooks has it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
