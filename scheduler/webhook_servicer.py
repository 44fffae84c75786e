"""WebhookStoreService: webhooks for the gateways, one method each."""

from __future__ import annotations

from typing import TypeAlias

import grpc

from atelier.errors import NotFoundError
from atelier.generation import State
from atelier.translate import state_from, state_to, time_to
from atelier.v1 import webhook_pb2
from atelier.v1 import webhook_store_pb2 as pb
from atelier.v1 import webhook_store_pb2_grpc as pb_grpc
from atelier.webhook_store import StoredDelivery, StoredWebhook, WebhookStore

Context: TypeAlias = grpc.aio.ServicerContext


class WebhookServicer(pb_grpc.WebhookStoreServiceServicer):
    """Every field has been checked by the gateway."""

    def __init__(self, store: WebhookStore) -> None:
        self._store = store

    async def InsertWebhook(
        self, request: pb.InsertWebhookRequest, context: Context
    ) -> pb.InsertWebhookResponse:
        webhook = request.webhook
        stored = await self._store.insert(
            request.tenant,
            webhook.id,
            request.secret,
            url=webhook.url,
            events=_states(webhook),
            include_prompts=webhook.include_prompts,
            description=webhook.description,
        )
        return pb.InsertWebhookResponse(webhook=_webhook(stored))

    async def ReadWebhooks(
        self, request: pb.ReadWebhooksRequest, context: Context
    ) -> pb.ReadWebhooksResponse:
        found = await self._store.read(request.tenant, request.id or None)
        if request.id and not found:
            raise NotFoundError(f"there is no webhook {request.id}")
        return pb.ReadWebhooksResponse(webhooks=[_webhook(one) for one in found])

    async def ChangeWebhook(
        self, request: pb.ChangeWebhookRequest, context: Context
    ) -> pb.ChangeWebhookResponse:
        change = request.change
        changed = await self._store.change(
            request.tenant,
            change.id,
            url=change.url if change.HasField("url") else None,
            events=_states(change),
            include_prompts=change.include_prompts if change.HasField("include_prompts") else None,
            description=change.description if change.HasField("description") else None,
            enabled=change.enabled if change.HasField("enabled") else None,
        )
        return pb.ChangeWebhookResponse(webhook=_webhook(changed))

    async def EraseWebhook(
        self, request: pb.EraseWebhookRequest, context: Context
    ) -> pb.EraseWebhookResponse:
        await self._store.delete(request.tenant, request.id)
        return pb.EraseWebhookResponse()

    async def ReplaceSecret(
        self, request: pb.ReplaceSecretRequest, context: Context
    ) -> pb.ReplaceSecretResponse:
        until = await self._store.replace_secret(
            request.tenant, request.id, request.secret, request.overlap_seconds
        )
        return pb.ReplaceSecretResponse(old_expire_time=time_to(until))

    async def InsertTest(
        self, request: pb.InsertTestRequest, context: Context
    ) -> pb.InsertTestResponse:
        made = await self._store.insert_test(request.tenant, request.webhook_id, request.id)
        return pb.InsertTestResponse(delivery=_delivery(made))

    async def ScanDeliveries(
        self, request: pb.ScanDeliveriesRequest, context: Context
    ) -> pb.ScanDeliveriesResponse:
        found = await self._store.deliveries(
            request.tenant,
            limit=request.limit,
            delivery_id=request.id or None,
            webhook_id=request.webhook_id or None,
            generation_id=request.generation_id or None,
            before_id=request.before_id or None,
        )
        return pb.ScanDeliveriesResponse(deliveries=[_delivery(one) for one in found])

    async def RenewDelivery(
        self, request: pb.RenewDeliveryRequest, context: Context
    ) -> pb.RenewDeliveryResponse:
        again = await self._store.redeliver(request.tenant, request.id)
        return pb.RenewDeliveryResponse(delivery=_delivery(again))


def _states(message: webhook_pb2.Webhook | webhook_pb2.UpdateWebhookRequest) -> list[State]:
    return [state for number in message.events if (state := state_from(number))]


def _webhook(stored: StoredWebhook) -> webhook_pb2.Webhook:
    return webhook_pb2.Webhook(
        id=stored.id,
        url=stored.url,
        events=[state_to(state) for state in stored.events],
        include_prompts=stored.include_prompts,
        description=stored.description,
        enabled=stored.enabled,
        disabled_reason=stored.disabled_reason,
        create_time=time_to(stored.create_time),
        update_time=time_to(stored.update_time),
    )


def _delivery(stored: StoredDelivery) -> webhook_pb2.Delivery:
    state = webhook_pb2.DELIVERY_STATE_PENDING
    if stored.finish_time:
        state = (
            webhook_pb2.DELIVERY_STATE_DELIVERED
            if stored.delivered
            else webhook_pb2.DELIVERY_STATE_FAILED
        )
    return webhook_pb2.Delivery(
        id=stored.id,
        webhook_id=stored.webhook_id or "",
        type=stored.type,
        generation_id=stored.generation_id or "",
        state=state,
        attempts=stored.attempts,
        status=stored.status,
        detail=stored.detail,
        create_time=time_to(stored.create_time),
        attempt_time=time_to(stored.attempt_time),
        next_time=None if stored.finish_time else time_to(stored.next_time),
        finish_time=time_to(stored.finish_time),
    )
