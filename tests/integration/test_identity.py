"""Who may call what, over the wire: a real gateway and scheduler, several keys, every method.

`GUESSES` holds an entry for every method that takes anything of a tenant's; what is there and
somebody else's has to be answered as what was never there.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from atelier.api_keys import ID_BYTES, SECRET_BYTES, new_key, read_key
from atelier.cli.__main__ import app
from atelier.v1 import (
    access_pb2,
    fleet_pb2,
    generation_pb2,
    model_pb2,
    preset_pb2,
    tenant_pb2,
    usage_pb2,
    webhook_pb2,
)
from gateway.scopes import SCOPE_OF
from tests.support.ports import free_address
from tests.support.processes import Process, scheduler_process

DESCRIPTORS = (
    access_pb2, fleet_pb2, generation_pb2, model_pb2, preset_pb2, tenant_pb2, usage_pb2, webhook_pb2
)  # fmt: skip
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in DESCRIPTORS
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
NEVER = "01890a5d-ac96-774b-bcce-b302099a8057"  # an id that nobody has
G, P, W = (f"/atelier.v1.{name}Service/" for name in ("Generation", "Preset", "Webhook"))


@dataclass
class Theirs:
    """What the first tenant has."""

    generation: str
    webhook: str
    delivery: str
    list_token: str
    deliveries_token: str
    object_key: str


@dataclass(frozen=True)
class Line:
    """Calls with a key, or without."""

    channel: grpc.aio.Channel
    key: str = ""

    async def __call__(self, method: str, request: Message) -> list[Message]:
        """The answers; one, if it is no stream."""
        described = METHODS[method]
        sent = [("authorization", f"Bearer {self.key}")] if self.key else []
        kinds = request.SerializeToString, GetMessageClass(described.output_type).FromString
        if described.server_streaming:
            stream = self.channel.unary_stream(method, lambda _: kinds[0](), kinds[1])
            answers = stream(request, timeout=10, metadata=sent)
            async for answer in answers:
                answers.cancel()
                return [answer]
            return []
        call = self.channel.unary_unary(method, lambda _: kinds[0](), kinds[1])
        return [await call(request, timeout=10, metadata=sent)]

    async def refused(self, method: str, request: Message) -> tuple[str, str, str]:
        """Code, reason and words of the refusal, ids in them left out."""
        try:
            answers = await self(method, request)
        except grpc.aio.AioRpcError as error:
            info = error_details_pb2.ErrorInfo()
            status = rpc_status.from_call(error)
            if status:
                assert status.details[0].Unpack(info), error
            words = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", error.details() or "")
            return error.code().name, info.reason, words
        raise AssertionError(f"{method} was answered: {answers}")


# The same question about what is theirs, and about what never was.
GUESSES: dict[str, Callable[[Theirs], tuple[Message, Message]]] = {
    G + "GetGeneration": lambda t: by_id(generation_pb2.GetGenerationRequest, t.generation),
    G + "WatchGeneration": lambda t: by_id(generation_pb2.WatchGenerationRequest, t.generation),
    G + "CancelGeneration": lambda t: by_id(generation_pb2.CancelGenerationRequest, t.generation),
    G + "DeleteGeneration": lambda t: by_id(generation_pb2.DeleteGenerationRequest, t.generation),
    G + "ListGenerations": lambda t: (
        generation_pb2.ListGenerationsRequest(page_size=1, page_token=t.list_token),
        generation_pb2.ListGenerationsRequest(page_size=1, page_token=other_query(t.list_token)),
    ),
    G + "CreateGeneration": lambda t: (drawn_over(t.object_key), drawn_over("inputs/acme/x.png")),
    G + "Generate": lambda t: (
        generation_pb2.GenerateRequest(create=drawn_over(t.object_key)),
        generation_pb2.GenerateRequest(create=drawn_over("inputs/acme/x.png")),
    ),
    P + "GetPreset": lambda t: by_name(preset_pb2.GetPresetRequest),
    P + "DeletePreset": lambda t: by_name(preset_pb2.DeletePresetRequest),
    P + "UpdatePreset": lambda t: (changed_preset("ink"), changed_preset("ibk")),
    W + "GetWebhook": lambda t: by_id(webhook_pb2.GetWebhookRequest, t.webhook),
    W + "UpdateWebhook": lambda t: by_id(webhook_pb2.UpdateWebhookRequest, t.webhook),
    W + "DeleteWebhook": lambda t: by_id(webhook_pb2.DeleteWebhookRequest, t.webhook),
    W + "RotateSecret": lambda t: by_id(webhook_pb2.RotateSecretRequest, t.webhook),
    W + "TestWebhook": lambda t: by_id(webhook_pb2.TestWebhookRequest, t.webhook),
    W + "RedeliverWebhook": lambda t: by_id(webhook_pb2.RedeliverWebhookRequest, t.delivery),
    "/atelier.v1.UsageService/GetUsage": lambda t: (
        usage_pb2.GetUsageRequest(tenant="acme"),
        usage_pb2.GetUsageRequest(tenant="nobody-at-all"),
    ),
}
# Methods that name nothing of a tenant's, or answer with what is the caller's alone: what they say
# to a third tenant must hold nothing of the first one's.
LISTS: dict[str, Callable[[Theirs], Message]] = {
    G + "ListGenerations": lambda t: generation_pb2.ListGenerationsRequest(),
    P + "ListPresets": lambda t: preset_pb2.ListPresetsRequest(),
    W + "ListWebhooks": lambda t: webhook_pb2.ListWebhooksRequest(),
    W + "ListDeliveries": lambda t: webhook_pb2.ListDeliveriesRequest(
        webhook_id=t.webhook, page_token=t.deliveries_token
    ),
    # The first one's request_id, and its name of a preset, are free for others.
    G + "CreateGeneration": lambda t: drawn("r1"),
    G + "CreateGenerations": lambda t: generation_pb2.CreateGenerationsRequest(
        requests=[drawn("r2"), drawn_over(t.object_key)]
    ),
    P + "CreatePreset": lambda t: preset_pb2.CreatePresetRequest(preset=ink()),
    W + "CreateWebhook": lambda t: webhook_pb2.CreateWebhookRequest(url="http://127.0.0.1:9/"),
    "/atelier.v1.UsageService/GetUsage": lambda t: usage_pb2.GetUsageRequest(),
}
NO_TENANT_S = {"/atelier.v1.ModelService/GetModel", "/atelier.v1.ModelService/ListModels"}


def by_id(kind: Callable[..., Message], one: str) -> tuple[Message, Message]:
    return kind(id=one), kind(id=NEVER)


def by_name(kind: Callable[..., Message]) -> tuple[Message, Message]:
    return kind(model="toy", name="ink"), kind(model="toy", name="ibk")


def ink(name: str = "ink", **more: Any) -> preset_pb2.Preset:
    return preset_pb2.Preset(
        model="toy", name=name, image=generation_pb2.ImageSpec(steps=3), **more
    )


def changed_preset(name: str) -> Message:
    return preset_pb2.UpdatePresetRequest(preset=ink(name, etag="1"))


def drawn(request_id: str) -> generation_pb2.CreateGenerationRequest:
    image = generation_pb2.ImageSpec(prompt="a secret of theirs")
    return generation_pb2.CreateGenerationRequest(model="toy", request_id=request_id, image=image)


def drawn_over(key: str) -> generation_pb2.CreateGenerationRequest:
    request = drawn("")
    request.image.init_image.object_key = key
    return request


def other_query(token: str) -> str:
    """A token as if of a list that never was."""
    read = json.loads(base64.urlsafe_b64decode(token))
    return base64.urlsafe_b64encode(
        json.dumps({"before": NEVER, "query": "0" * len(read["query"])}).encode()
    ).decode()


@dataclass
class Scene:
    """A gateway, and those who call it."""

    log: Path
    address: str
    texts: list[str]
    channel: grpc.aio.Channel
    theirs: Theirs
    operator: Line
    first: Line
    second: Line  # has nothing, and guesses
    third: Line  # makes things of its own
    reader: Line
    nobody: Line


def database(postgres: str) -> str:
    """Another one, empty."""
    name = f"t{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return make_conninfo(postgres, dbname=name)


@pytest.fixture(scope="module")
def processes(
    postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Process, Process, Path]]:
    folder = tmp_path_factory.mktemp("identity")
    operators = folder / "operators"
    operators.write_text(new_key(bytes([7] * ID_BYTES), bytes([7] * SECRET_BYTES)) + "\n")
    address = free_address()
    with scheduler_process(database(postgres), folder) as scheduler:
        gateway = Process(
            "gateway",
            address,
            folder / "gateway.log",
            gateway_listen=address,
            scheduler_address=scheduler.address,
            model_repository=folder,
            operator_keys=operators,
            s3_endpoint="127.0.0.1:9",
            s3_access_key="a",
            s3_secret_key="canary-of-s3",
            webhook_allowed_networks='["127.0.0.0/8"]',
            webhook_allowed_ports="[]",
            webhook_allow_http="true",
        )
        # A door of before the one above, on loopback: it asks for no key.
        office = Process(
            "gateway",
            (inside := free_address()),
            folder / "office.log",
            gateway_listen=inside,
            scheduler_address=scheduler.address,
            model_repository=folder,
            require_keys="false",
            s3_endpoint="127.0.0.1:9",
            s3_access_key="a",
            s3_secret_key="canary-of-s3",
        )
        with gateway, office:
            yield gateway, office, folder


@pytest.fixture(scope="module")
async def scene(processes: tuple[Process, Process, Path]) -> AsyncIterator[Scene]:
    gateway, _, folder = processes
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        texts = [(folder / "operators").read_text().strip()]
        local = Line(channel, texts[0])

        async def line(tenant: str, *scopes: str) -> Line:
            request = access_pb2.CreateKeyRequest(tenant=tenant, scopes=scopes)
            [made] = await local("/atelier.v1.AccessService/CreateKey", request)
            assert isinstance(made, access_pb2.CreateKeyResponse)
            texts.append(made.text)
            return Line(channel, made.text)

        first = await line("acme", "generate", "read")
        second = await line("else", "generate", "read")
        third = await line("third", "generate", "read")
        yield Scene(
            folder / "gateway.log", gateway.address, texts, channel, await what_is_there(first),
            await line("house", "admin"), first, second, third, await line("acme", "read"),
            Line(channel),
        )  # fmt: skip


async def what_is_there(first: Line) -> Theirs:
    [hook] = await first(
        W + "CreateWebhook", webhook_pb2.CreateWebhookRequest(url="http://127.0.0.1:9/")
    )
    ids = []
    for request_id in ("r1", "r2"):
        [made] = await first(G + "CreateGeneration", drawn(request_id))
        ids.append(made.generation.id)  # type: ignore[attr-defined]
        await first(G + "CancelGeneration", generation_pb2.CancelGenerationRequest(id=ids[-1]))
    await first(P + "CreatePreset", preset_pb2.CreatePresetRequest(preset=ink()))
    page = generation_pb2.ListGenerationsRequest(page_size=1)
    [listed] = await first(G + "ListGenerations", page)
    deliveries = webhook_pb2.ListDeliveriesRequest(page_size=1)
    [told] = await first(W + "ListDeliveries", deliveries)
    return Theirs(
        ids[0],
        hook.webhook.id,  # type: ignore[attr-defined]
        told.deliveries[0].id,  # type: ignore[attr-defined]
        listed.next_page_token,  # type: ignore[attr-defined]
        told.next_page_token,  # type: ignore[attr-defined]
        f"results/acme/{ids[0]}/1/0.png",
    )


def test_every_method_has_a_scope_and_an_entry() -> None:
    served = {m for m in SCOPE_OF if m.startswith("/atelier.")}
    assert served == METHODS.keys()
    admin = {m for m in METHODS if SCOPE_OF[m] == "admin"}
    assert GUESSES.keys() | LISTS.keys() | NO_TENANT_S | admin == METHODS.keys()
    for module in (health_pb2, reflection_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            assert {f"/{service.full_name}/{m.name}" for m in service.methods} <= SCOPE_OF.keys()


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_without_a_key_nothing_is_answered(scene: Scene, method: str) -> None:
    empty = GetMessageClass(METHODS[method].input_type)()
    code, reason, words = await scene.nobody.refused(method, empty)
    assert (code, reason) == ("UNAUTHENTICATED", "API_KEY_MISSING")
    assert "authorization: Bearer" in words


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_a_key_does_what_its_scopes_name_and_no_more(scene: Scene, method: str) -> None:
    empty = GetMessageClass(METHODS[method].input_type)()
    for line, scopes in ((scene.reader, {"read"}), (scene.operator, {"admin"})):
        if SCOPE_OF[method] not in scopes:
            code, reason, words = await line.refused(method, empty)
            assert (code, reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
            assert f"scope {SCOPE_OF[method]}" in words


@pytest.mark.parametrize("method", sorted(GUESSES))
async def test_what_is_somebody_else_s_is_as_what_never_was(scene: Scene, method: str) -> None:
    foreign, unknown = GUESSES[method](scene.theirs)
    told = await scene.second.refused(method, foreign)
    named = tuple(text.replace("ink", "ibk") for text in told)
    assert named == await scene.second.refused(method, unknown)
    assert told[0] in ("NOT_FOUND", "INVALID_ARGUMENT", "PERMISSION_DENIED")
    assert "acme" not in told[2]


@pytest.mark.parametrize("method", sorted(LISTS))
async def test_an_answer_holds_nothing_of_somebody_else_s(scene: Scene, method: str) -> None:
    [answer] = await scene.third(method, LISTS[method](scene.theirs))
    told, theirs = answer.SerializeToString(), scene.theirs
    for secret in (theirs.generation, theirs.webhook, theirs.delivery, "acme"):
        assert secret.encode() not in told


async def test_what_they_have_stands_after_all_that(scene: Scene) -> None:
    guess = generation_pb2.GetGenerationRequest(id=scene.theirs.generation)
    [found] = await scene.first(G + "GetGeneration", guess)
    assert found.generation.id == scene.theirs.generation  # type: ignore[attr-defined]
    [hooks] = await scene.first(W + "ListWebhooks", webhook_pb2.ListWebhooksRequest())
    assert [hook.id for hook in hooks.webhooks] == [scene.theirs.webhook]  # type: ignore[attr-defined]


async def test_a_shared_preset_takes_an_operator(scene: Scene) -> None:
    request = preset_pb2.CreatePresetRequest(preset=ink("ours", shared=True))
    code, reason, _ = await scene.first.refused(P + "CreatePreset", request)
    assert (code, reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")


async def test_a_key_is_rotated_listed_and_revoked(scene: Scene) -> None:
    service = "/atelier.v1.AccessService/"
    old = scene.reader.key.split("_")[1]
    [rotated] = await scene.operator(
        service + "RotateKey", access_pb2.RotateKeyRequest(id=old, overlap_seconds=3_600)
    )
    assert isinstance(rotated, access_pb2.RotateKeyResponse)
    scene.texts.append(rotated.text)
    new = Line(scene.channel, rotated.text)
    for line in (scene.reader, new):  # both, until the overlap is over
        await line(G + "ListGenerations", generation_pb2.ListGenerationsRequest())
    [revoked] = await scene.operator(
        service + "RevokeKey", access_pb2.RevokeKeyRequest(id=rotated.key.id)
    )
    assert revoked.key.HasField("revoke_time")  # type: ignore[attr-defined]
    [listed] = await scene.operator(service + "ListKeys", access_pb2.ListKeysRequest(tenant="acme"))
    known = {key.id: key for key in listed.keys}  # type: ignore[attr-defined]
    assert len(known) == 3 and known[old].HasField("expire_time")
    assert known[old].HasField("last_use_time")
    assert not any(text.split("_")[2] in str(listed) for text in scene.texts)


async def test_a_key_that_is_no_good_says_why(scene: Scene) -> None:
    service, asked = "/atelier.v1.AccessService/", generation_pb2.ListGenerationsRequest()

    async def made() -> access_pb2.CreateKeyResponse:
        request = access_pb2.CreateKeyRequest(tenant="acme", scopes=["read"], expire_days=1)
        [answer] = await scene.operator(service + "CreateKey", request)
        assert isinstance(answer, access_pb2.CreateKeyResponse)
        scene.texts.append(answer.text)
        return answer

    async def refused(text: str) -> tuple[str, str]:
        return (await Line(scene.channel, text).refused(G + "ListGenerations", asked))[:2]

    revoked, expired = await made(), await made()
    await scene.operator(service + "RevokeKey", access_pb2.RevokeKeyRequest(id=revoked.key.id))
    rotate = access_pb2.RotateKeyRequest(id=expired.key.id)  # no overlap
    await scene.operator(service + "RotateKey", rotate)
    assert await refused(revoked.text) == ("UNAUTHENTICATED", "API_KEY_REVOKED")
    assert await refused(expired.text) == ("UNAUTHENTICATED", "API_KEY_EXPIRED")
    assert await refused(expired.text[:-1]) == ("UNAUTHENTICATED", "API_KEY_GARBLED")
    unknown = new_key(bytes(ID_BYTES), bytes(SECRET_BYTES))
    assert await refused(unknown) == ("UNAUTHENTICATED", "API_KEY_UNKNOWN")
    again = await scene.operator.refused(service + "RotateKey", rotate)
    assert again[:2] == ("FAILED_PRECONDITION", "API_KEY_ENDED")


async def test_who_is_asked_for_no_key_makes_himself_none(
    scene: Scene, processes: tuple[Process, Process, Path]
) -> None:
    async with grpc.aio.insecure_channel(processes[1].address) as channel:
        office = Line(channel)
        await office(G + "ListGenerations", generation_pb2.ListGenerationsRequest())
        asked = access_pb2.CreateKeyRequest(tenant="acme", scopes=["admin"])
        told = await office.refused("/atelier.v1.AccessService/CreateKey", asked)
        assert told[:2] == ("UNAUTHENTICATED", "API_KEY_MISSING")


async def test_an_operator_makes_and_ends_keys_from_the_command_line(
    processes: tuple[Process, Process, Path],
) -> None:
    gateway, _, folder = processes

    async def keys(*words: str, file: str = "operators") -> str:
        shown = ["--api-key-file", str(folder / file)]
        command = [*shown, "keys", *words, "--address", gateway.address]
        return (await asyncio.to_thread(CliRunner().invoke, app, command)).output

    made = (await keys("create", "shop", "--days", "7", "--description", "[till]")).splitlines()
    key_id = made[0].split()[1]
    assert made[0] == f"key {key_id} of shop: generate, read" and read_key(made[1])
    listed = await keys("list", "shop")
    assert "[till]" in listed and "good" in listed and made[1] not in listed
    rotated = await keys("rotate", key_id, "--overlap", "0")
    assert read_key(rotated.splitlines()[1])
    assert await keys("revoke", key_id) == f"key {key_id} of shop is revoked\n"
    assert "revoked" in await keys("list")
    assert (await keys("create", "Shop!")).startswith("TENANT: must be")
    assert "cannot read" in await keys("list", file="none")


async def test_no_log_tells_a_secret_or_a_prompt(
    scene: Scene, processes: tuple[Process, Process, Path]
) -> None:
    """P14, of what the tests above did, and of a few calls that are refused with a key in them."""
    asked = generation_pb2.ListGenerationsRequest()
    for text in (scene.texts[0][:-1], scene.texts[0] + "0"):
        told = await Line(scene.channel, text).refused(G + "ListGenerations", asked)
        assert told[1] == "API_KEY_GARBLED" and text not in told[2]
    await scene.reader.refused(G + "CreateGeneration", drawn(""))
    logs = {path.name: path.read_text() for path in processes[2].glob("*.log")}
    assert set(logs) == {"gateway.log", "office.log", "scheduler.log"}
    assert "PERMISSION_DENIED" in logs["gateway.log"]  # it is written there, what was refused
    canaries = [text.split("_")[2] for text in scene.texts]
    canaries += ["canary-of-s3", "a secret of theirs"]
    assert [c for c in canaries for log in logs.values() if c in log] == []
