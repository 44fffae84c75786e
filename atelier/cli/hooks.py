"""Webhooks from the command line: made, tried, looked at, and told again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atelier.cli import problems
from atelier.cli.fleet import CALL_SECONDS, print_json, say
from atelier.cli.where import Gateway, line_to
from atelier.v1 import generation_pb2, webhook_pb2_grpc
from atelier.v1 import webhook_pb2 as pb

_STATE = "GENERATION_STATE_"
_EVENTS = ("succeeded", "failed", "cancelled", "expired")
_STYLES = {pb.DELIVERY_STATE_DELIVERED: "green", pb.DELIVERY_STATE_FAILED: "red"}


@asynccontextmanager
async def hooks_at(where: Gateway) -> AsyncIterator[webhook_pb2_grpc.WebhookServiceStub]:
    """A gateway's WebhookService."""
    async with line_to(where) as line:
        yield webhook_pb2_grpc.WebhookServiceStub(line)


async def create(
    where: Gateway,
    url: str,
    events: Sequence[str],
    description: str,
    console: Console,
    *,
    prompts: bool,
) -> None:
    """Make one, and tell its secret, which nobody tells again.

    Raises:
        ProblemError: it was refused.
    """
    request = pb.CreateWebhookRequest(
        url=url, events=_states(events), include_prompts=prompts, description=description
    )
    async with hooks_at(where) as hooks:
        made = await hooks.CreateWebhook(request, timeout=CALL_SECONDS)
    say(console, f"webhook {made.webhook.id}: {made.webhook.url}")
    _tell_secret(made.secret, console)


async def list_(where: Gateway, console: Console, *, as_json: bool) -> None:
    """Print every webhook."""
    async with hooks_at(where) as hooks:
        listed = await hooks.ListWebhooks(pb.ListWebhooksRequest(), timeout=CALL_SECONDS)
    if as_json:
        print_json(listed)
        return
    if not listed.webhooks:
        say(console, "no webhooks: `atelier webhooks create URL` makes one")
        return
    table = Table("webhook", "url", "told of", "state", "description", box=None)
    for one in listed.webhooks:
        state = "enabled" if one.enabled else f"disabled: {one.disabled_reason}"
        told = ", ".join(_words(one)) + (", with prompts" if one.include_prompts else "")
        table.add_row(one.id, escape(one.url), told, escape(state), escape(one.description))
    console.print(table)


async def enable(where: Gateway, webhook: str, console: Console, *, enabled: bool) -> None:
    """Enable one, or disable it."""
    async with hooks_at(where) as hooks:
        await hooks.UpdateWebhook(
            pb.UpdateWebhookRequest(id=webhook, enabled=enabled), timeout=CALL_SECONDS
        )
    say(console, f"webhook {webhook} is {'enabled' if enabled else 'disabled'}")


async def delete(where: Gateway, webhook: str, console: Console) -> None:
    """Delete one."""
    async with hooks_at(where) as hooks:
        await hooks.DeleteWebhook(pb.DeleteWebhookRequest(id=webhook), timeout=CALL_SECONDS)
    say(console, f"webhook {webhook} is gone")


async def rotate(where: Gateway, webhook: str, overlap: int, console: Console) -> None:
    """Another secret for one, or for the tenant itself."""
    request = pb.RotateSecretRequest(id=webhook, overlap_seconds=overlap)
    async with hooks_at(where) as hooks:
        rotated = await hooks.RotateSecret(request, timeout=CALL_SECONDS)
    _tell_secret(rotated.secret, console)
    say(console, f"until {_time(rotated.old_expire_time)} the one before, if any, signs as well")


async def test(where: Gateway, webhook: str, console: Console) -> None:
    """Send a test event.

    Raises:
        ProblemError: it was not delivered.
    """
    async with hooks_at(where) as hooks:
        answer = await hooks.TestWebhook(pb.TestWebhookRequest(id=webhook), timeout=CALL_SECONDS)
    one = answer.delivery
    if one.state == pb.DELIVERY_STATE_PENDING:
        raise problems.ProblemError(
            ["nobody has sent it yet: does the process `webhooks` run? (`atelier ps`)"]
        )
    if one.state != pb.DELIVERY_STATE_DELIVERED:
        raise problems.ProblemError([f"not delivered: {_came_back(one)}"])
    say(console, f"delivered: {_came_back(one)}")


async def deliveries(
    where: Gateway, webhook: str, generation: str, last: int, console: Console, *, as_json: bool
) -> None:
    """Print the latest deliveries."""
    request = pb.ListDeliveriesRequest(webhook_id=webhook, generation_id=generation, page_size=last)
    async with hooks_at(where) as hooks:
        page = await hooks.ListDeliveries(request, timeout=CALL_SECONDS)
    if as_json:
        print_json(page)
        return
    if not page.deliveries:
        say(console, "nothing was told, or all of it more than a week ago")
        return
    table = Table("delivery", "event", "generation", "state", "came back", box=None)
    for one in page.deliveries:
        state = pb.DeliveryState.Name(one.state).removeprefix("DELIVERY_STATE_").lower()
        if one.state == pb.DELIVERY_STATE_PENDING:
            state += f", next at {_time(one.next_time)}"
        style = _STYLES.get(one.state, "yellow")
        table.add_row(
            one.id, one.type, one.generation_id, f"[{style}]{state}[/]", escape(_came_back(one))
        )
    console.print(table)


async def redeliver(where: Gateway, delivery: str, console: Console) -> None:
    """Have one delivered again."""
    async with hooks_at(where) as hooks:
        await hooks.RedeliverWebhook(pb.RedeliverWebhookRequest(id=delivery), timeout=CALL_SECONDS)
    say(console, f"{delivery} is on its way again")


def _states(events: Sequence[str]) -> list[generation_pb2.GenerationState.ValueType]:
    for event in events:
        if event not in _EVENTS:
            raise problems.ProblemError(
                [f"--event {event}: must be one of {', '.join(_EVENTS)}"], problems.BAD_INPUT
            )
    return [generation_pb2.GenerationState.Value(f"{_STATE}{e.upper()}") for e in events]


def _words(webhook: pb.Webhook) -> list[str]:
    return [
        generation_pb2.GenerationState.Name(n).removeprefix(_STATE).lower() for n in webhook.events
    ]


def _came_back(one: pb.Delivery) -> str:
    if not one.attempts:
        return "-"
    said = f"status {one.status}" if one.status else ""
    text = ": ".join(filter(None, (said, one.detail)))
    return f"{text} (attempt {one.attempts})" if one.attempts > 1 else text


def _tell_secret(secret: str, console: Console) -> None:
    say(console, f"secret: {secret}")
    say(console, "keep it: it is not told again")


def _time(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime(UTC):%Y-%m-%d %H:%M:%S} UTC"
