"""Webhooks through the whole stack: made at the gateway, told by their own process."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from rich.console import Console
from standardwebhooks import Webhook

from atelier.cli import hooks
from atelier.cli.generate import generate
from atelier.cli.problems import ProblemError
from atelier.cli.where import Gateway
from atelier.cli.wish import Wish
from atelier.v1 import generation_pb2, webhook_pb2_grpc
from atelier.v1 import webhook_pb2 as pb
from tests.e2e.conftest import Stack, create
from tests.e2e.test_command_line import atelier
from tests.support.receiver import Receiver, answering

SUCCEEDED, CANCELLED = (
    generation_pb2.GENERATION_STATE_SUCCEEDED,
    generation_pb2.GENERATION_STATE_CANCELLED,
)


async def test_a_webhook_s_whole_life(stack: Stack) -> None:
    async with Receiver(answering(400, body=b"no such hook")) as receiver:
        await asyncio.to_thread(_live, stack, receiver)


def _live(stack: Stack, receiver: Receiver) -> None:
    service = webhook_pb2_grpc.WebhookServiceStub(stack.channel)
    made = service.CreateWebhook(
        pb.CreateWebhookRequest(url=receiver.url, events=[SUCCEEDED], description="mine")
    )
    hook = made.webhook
    assert hook.enabled and hook.url == receiver.url and made.secret.startswith("whsec_")
    assert hook == service.GetWebhook(pb.GetWebhookRequest(id=hook.id)).webhook
    try:
        tested = service.TestWebhook(pb.TestWebhookRequest(id=hook.id)).delivery
        assert (tested.state, tested.status) == (pb.DELIVERY_STATE_FAILED, 400)
        assert tested.detail == "no such hook" and tested.type == "webhook.test"
        tested = service.TestWebhook(pb.TestWebhookRequest(id=hook.id)).delivery
        assert (tested.state, tested.status) == (pb.DELIVERY_STATE_DELIVERED, 204)

        drawn = stack.wait(stack.create("a red circle on a blue background"))
        assert drawn.state == SUCCEEDED
        told = _delivered(service, drawn.id)
        event = Webhook(made.secret).verify(
            receiver.received[-1].body, receiver.received[-1].headers
        )
        assert event["data"]["results"][0]["object_key"] == drawn.results[0].object_key

        again = service.RedeliverWebhook(pb.RedeliverWebhookRequest(id=told.id)).delivery
        assert again.state == pb.DELIVERY_STATE_PENDING
        assert _delivered(service, drawn.id).attempts == 1
        assert receiver.received[-1].id == receiver.received[-2].id == told.id

        rotated = service.RotateSecret(pb.RotateSecretRequest(id=hook.id, overlap_seconds=60))
        service.TestWebhook(pb.TestWebhookRequest(id=hook.id))
        for secret in (made.secret, rotated.secret):
            Webhook(secret).verify(receiver.received[-1].body, receiver.received[-1].headers)

        changed = service.UpdateWebhook(pb.UpdateWebhookRequest(id=hook.id, events=[CANCELLED]))
        assert list(changed.webhook.events) == [CANCELLED]
        assert changed.webhook.description == "mine"
        page = service.ListDeliveries(pb.ListDeliveriesRequest(webhook_id=hook.id, page_size=3))
        rest = service.ListDeliveries(
            pb.ListDeliveriesRequest(webhook_id=hook.id, page_token=page.next_page_token)
        )
        assert [len(page.deliveries), len(rest.deliveries)] == [3, 1]
    finally:
        service.DeleteWebhook(pb.DeleteWebhookRequest(id=hook.id))
    assert not service.ListWebhooks(pb.ListWebhooksRequest()).webhooks
    with pytest.raises(grpc.RpcError) as gone:
        service.GetWebhook(pb.GetWebhookRequest(id=hook.id))
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_single_request_s_own_url(stack: Stack) -> None:
    async with Receiver() as receiver:
        await asyncio.to_thread(_single, stack, receiver)


def _single(stack: Stack, receiver: Receiver) -> None:
    service = webhook_pb2_grpc.WebhookServiceStub(stack.channel)
    secret = service.RotateSecret(pb.RotateSecretRequest()).secret
    request = create("a green ring on a blue background")
    request.webhook_url = receiver.url
    made = stack.generations.CreateGeneration(request).generation
    assert made.webhook_url == receiver.url
    stack.wait(made.id)
    told = _delivered(service, made.id)
    assert (told.webhook_id, told.type) == ("", "generation.succeeded")
    [got] = receiver.received
    assert Webhook(secret).verify(got.body, got.headers)["data"]["id"] == made.id

    request.webhook_url = "https://127.0.0.1@10.0.0.1/"
    request.image.steps = -1
    with pytest.raises(grpc.RpcError, match="webhook_url: must be a URL") as refused:
        stack.generations.CreateGeneration(request)
    assert "image.steps" in refused.value.details()


async def test_from_the_command_line(stack: Stack, tmp_path: Path) -> None:
    """In this process, but for one: a command takes most of its time to start."""
    where, said = Gateway(stack.address, stack.key), Console(file=io.StringIO(), width=240)

    def told() -> str:
        assert isinstance(said.file, io.StringIO)
        return said.file.getvalue()

    async with Receiver() as receiver:
        await hooks.create(where, receiver.url, ["failed"], "mine", said, prompts=False)
        hook, secret = told().split()[1].rstrip(":"), told().split("secret: ")[1].split()[0]
        await hooks.test(where, hook, said)
        assert "delivered: status 204" in told()
        Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)
        await hooks.deliveries(where, hook, "", 5, said, as_json=False)
        assert "webhook.test" in told()
        await hooks.redeliver(where, receiver.received[0].id, said)
        await receiver.until(2)
        await hooks.enable(where, hook, said, enabled=False)
        await hooks.list_(where, said, as_json=False)
        assert "disabled: by its tenant" in told() and receiver.url in told()
        with pytest.raises(ProblemError, match="enable it first"):
            await hooks.test(where, hook, said)
        await hooks.rotate(where, hook, 60, said)
        await hooks.delete(where, hook, said)
        await hooks.rotate(where, "", 0, said)  # the tenant's own: single generations take it
        await generate(
            where,
            Wish("a red ring on a white background", steps=1, webhook_url=receiver.url),
            tmp_path,
            said,
        )
        await receiver.until(3)
        assert receiver.received[2].event["type"] == "generation.succeeded"
    words = ("webhooks", "create", "https://10.0.0.1", "--state-dir", ".")
    refused = await asyncio.to_thread(atelier, *words, cwd=stack.state_dir)
    assert refused.returncode == 2 and refused.stderr.startswith("URL: must be a URL with")


def _delivered(service: webhook_pb2_grpc.WebhookServiceStub, generation_id: str) -> pb.Delivery:
    request = pb.ListDeliveriesRequest(generation_id=generation_id)
    for _ in range(200):
        [delivery] = service.ListDeliveries(request).deliveries
        if delivery.state == pb.DELIVERY_STATE_DELIVERED:
            return delivery
        asyncio.run(asyncio.sleep(0.05))
    raise TimeoutError(delivery)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.CreateWebhookRequest(url="http://10.0.0.1", description="x" * 201),
         {"url", "description"}),
        (pb.CreateWebhookRequest(url="http://169.254.169.254/"), {"url"}),
        (pb.CreateWebhookRequest(url="nonsense", events=[1]), {"url", "events"}),
        (pb.ListDeliveriesRequest(page_size=-1, webhook_id="x", page_token="y"),
         {"page_size", "webhook_id", "page_token"}),
        (pb.RotateSecretRequest(overlap_seconds=-1), {"overlap_seconds"}),
        (pb.TestWebhookRequest(id="x"), {"id"}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_field(stack: Stack, request_: object, fields: set[str]) -> None:
    service = webhook_pb2_grpc.WebhookServiceStub(stack.channel)
    method = type(request_).__name__.removesuffix("Request")
    with pytest.raises(grpc.RpcError) as refused:
        getattr(service, method)(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert any(d.Unpack(bad) for d in rpc_status.from_call(refused.value).details)
    assert {violation.field for violation in bad.field_violations} == fields
