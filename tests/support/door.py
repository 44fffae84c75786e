"""A gateway's services in this process, in front of any scheduler, with the toy model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from atelier.catalog import Catalog, ModelCard
from atelier.config import ObjectStoreSettings
from atelier.plan import MOST_STREAMS
from atelier.service import serving
from atelier.stores import Stores
from atelier.v1 import (
    fleet_pb2_grpc,
    generation_pb2_grpc,
    model_pb2_grpc,
    preset_pb2_grpc,
    tenant_pb2_grpc,
    usage_pb2_grpc,
)
from gateway.app import MAX_REQUEST_BYTES
from gateway.fleet_servicer import FleetServicer
from gateway.generation_servicer import GenerationServicer
from gateway.identity import Caller, Identify, IdentityInterceptor
from gateway.inputs import HELD_BYTES, Inputs
from gateway.model_servicer import ModelServicer
from gateway.preset_servicer import PresetServicer
from gateway.results import Results
from gateway.scheduler_client import SchedulerClient
from gateway.tenant_servicer import TenantServicer, UsageServicer
from tests.support.cards import toy_card
from tests.support.ports import free_address


@dataclass(frozen=True)
class Door:
    """A caller's line to it."""

    generations: generation_pb2_grpc.GenerationServiceStub
    presets: preset_pb2_grpc.PresetServiceStub
    models: model_pb2_grpc.ModelServiceStub
    fleet: fleet_pb2_grpc.FleetServiceStub
    tenants: tenant_pb2_grpc.TenantServiceStub
    usage: usage_pb2_grpc.UsageServiceStub
    channel: grpc.aio.Channel
    address: str
    scheduler_address: str


@asynccontextmanager
async def door(
    scheduler_address: str,
    *,
    tenant: str = "local",
    scopes: Collection[str] = ("generate", "read", "admin"),
    call_timeout_seconds: float = 10.0,
    cards: Mapping[str, ModelCard] | None = None,
    s3_address: str = "127.0.0.1:9",
    held_bytes: int = HELD_BYTES,
    identify: Identify | None = None,
    most_streams: int = MOST_STREAMS,
) -> AsyncIterator[Door]:
    settings = ObjectStoreSettings(
        s3_endpoint=s3_address,
        s3_access_key="key",
        s3_secret_key="secret",  # type: ignore[arg-type]
    )
    client = SchedulerClient(scheduler_address, call_timeout_seconds)
    catalog = Catalog(cards or {"toy": toy_card()})
    store = Stores.from_settings(settings)
    inputs, results = Inputs(store, held_bytes=held_bytes), Results(store, 60)
    generations = GenerationServicer(client, catalog, inputs, results)
    address, who = free_address(), Caller(tenant, frozenset(scopes))

    async def everybody(method: str, context: grpc.aio.ServicerContext) -> Caller:
        return who

    def register(server: grpc.aio.Server) -> None:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(generations, server)
        preset_pb2_grpc.add_PresetServiceServicer_to_server(PresetServicer(client, catalog), server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(catalog), server)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(FleetServicer(client), server)
        tenant_pb2_grpc.add_TenantServiceServicer_to_server(TenantServicer(client), server)
        usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageServicer(client), server)

    async with (
        serving(
            address,
            [],
            register,
            MAX_REQUEST_BYTES,
            interceptors=[IdentityInterceptor(identify or everybody, most_streams)],
        ),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Door(
            generation_pb2_grpc.GenerationServiceStub(channel),
            preset_pb2_grpc.PresetServiceStub(channel),
            model_pb2_grpc.ModelServiceStub(channel),
            fleet_pb2_grpc.FleetServiceStub(channel),
            tenant_pb2_grpc.TenantServiceStub(channel),
            usage_pb2_grpc.UsageServiceStub(channel),
            channel,
            address,
            scheduler_address,
        )
    inputs.close()
    await client.close()


@dataclass(frozen=True)
class Refusal:
    """What a caller is told: gRPC's code, ErrorInfo's reason, what is wrong by field, whether a
    time to try again was given, and which quota it is of."""

    code: str
    reason: str
    fields: dict[str, str]
    retry: bool
    quota: str = ""


async def refusal(method: Any, request: Message) -> Refusal:
    """How a unary call ends that must not succeed."""
    try:
        answer = await method(request, timeout=20)
    except grpc.aio.AioRpcError as error:
        return refusal_of(rpc_status.from_call(error))
    raise AssertionError(f"it was answered: {answer}")


def refusal_of(status: Any) -> Refusal:
    """What a google.rpc.Status says."""
    reason, fields, retry, quota = "", {}, False, ""
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        over = error_details_pb2.QuotaFailure()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = {wrong.field: wrong.description for wrong in bad.field_violations}
        elif detail.Unpack(over):
            quota = over.violations[0].description.partition(":")[0]
        else:
            retry = retry or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    code = next(c.name for c in grpc.StatusCode if c.value[0] == status.code)
    return Refusal(code, reason, fields, retry, quota)
