"""The gateway's process, put together."""

from __future__ import annotations

from collections.abc import Container
from contextlib import AsyncExitStack

import grpc

from atelier.api_keys import SCOPES
from atelier.catalog import Catalog
from atelier.config import GatewaySettings
from atelier.egress import Egress
from atelier.metrics import exported
from atelier.pauses import Pauses, collect_calls
from atelier.pictures import MAX_PICTURE_BYTES
from atelier.service import serving, tasks, unless_stopped
from atelier.stores import Stores
from atelier.tls import CertificateFiles, peers_of
from atelier.v1 import (
    access_pb2,
    access_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    preset_pb2,
    preset_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
    webhook_pb2,
    webhook_pb2_grpc,
)
from gateway.access_servicer import AccessServicer, finding
from gateway.certificates import callers_by_uri
from gateway.fleet_servicer import FleetServicer
from gateway.generation_servicer import GenerationServicer
from gateway.identity import Caller, IdentityInterceptor
from gateway.inputs import Inputs
from gateway.key_tries import KeyTries
from gateway.keys import Keys
from gateway.model_servicer import ModelServicer
from gateway.operator_keys import OperatorKeys
from gateway.overrun import Overrun
from gateway.preset_servicer import PresetServicer
from gateway.results import Results
from gateway.scheduler_client import SchedulerClient
from gateway.tenant_servicer import TenantServicer, UsageServicer
from gateway.webhook_servicer import WebhookServicer

# Of one connection, beside the watches that a tenant may have: gRPC refuses what is beyond. Without
# a bound 40,000 streams that are opened and reset at once cost 440 MB.
SPARE_STREAMS = 2_000
# Two pictures and all the rest. Past it gRPC itself answers RESOURCE_EXHAUSTED.
MAX_REQUEST_BYTES = 2 * MAX_PICTURE_BYTES + 2**20


async def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    await unless_stopped(_run(settings))


async def _run(settings: GatewaySettings) -> None:
    catalog = Catalog.read(settings.model_repository)
    store = Stores.from_settings(settings)
    inputs, results = Inputs(store), Results(store, settings.url_lifetime_seconds)
    async with AsyncExitStack() as stack:
        meter = stack.enter_context(
            exported("gateway", settings.gateway_metrics_listen, "ATELIER_GATEWAY_METRICS_LISTEN")
        )
        store.measure(meter)
        scheduler = SchedulerClient(
            settings.scheduler_address,
            settings.call_timeout_seconds,
            peers_of(settings),
            settings.scheduler_name,
        )
        stack.push_async_callback(scheduler.close)
        stack.callback(inputs.close)
        stack.callback(store.close)
        egress = Egress(settings.webhook_rules)
        generations = GenerationServicer(
            scheduler, catalog, inputs, results, egress, Overrun(meter)
        )
        anyone = Caller(settings.tenant, frozenset(SCOPES))
        find = finding(scheduler)
        own: Container[str] = ()
        if settings.operator_keys:
            own = operators = OperatorKeys(settings.operator_keys, settings.tenant)
            find = operators.before(find)
        keys = Keys(
            find,
            own=own,
            tries=KeyTries(meter),
            without=None if settings.require_keys else anyone,
            certificates=callers_by_uri(
                settings.certificate_tenants, settings.certificate_admins, settings.tenant
            ),
        )

        def register(server: grpc.aio.Server) -> None:
            generation_pb2_grpc.add_GenerationServiceServicer_to_server(generations, server)
            model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(catalog), server)
            preset_pb2_grpc.add_PresetServiceServicer_to_server(
                PresetServicer(scheduler, catalog), server
            )
            webhook_pb2_grpc.add_WebhookServiceServicer_to_server(
                WebhookServicer(scheduler, egress), server
            )
            fleet_pb2_grpc.add_FleetServiceServicer_to_server(FleetServicer(scheduler), server)
            tenant_pb2_grpc.add_TenantServiceServicer_to_server(TenantServicer(scheduler), server)
            usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageServicer(scheduler), server)
            access_pb2_grpc.add_AccessServiceServicer_to_server(AccessServicer(scheduler), server)

        services = [
            generation_pb2.DESCRIPTOR.services_by_name["GenerationService"],
            model_pb2.DESCRIPTOR.services_by_name["ModelService"],
            preset_pb2.DESCRIPTOR.services_by_name["PresetService"],
            webhook_pb2.DESCRIPTOR.services_by_name["WebhookService"],
            fleet_pb2.DESCRIPTOR.services_by_name["FleetService"],
            access_pb2.DESCRIPTOR.services_by_name["AccessService"],
            tenant_pb2.DESCRIPTOR.services_by_name["TenantService"],
            usage_pb2.DESCRIPTOR.services_by_name["UsageService"],
        ]
        await stack.enter_async_context(
            serving(
                settings.gateway_listen,
                services,
                register,
                MAX_REQUEST_BYTES,
                meter,
                interceptors=[IdentityInterceptor(keys.identify, settings.max_streams)],
                most_streams=settings.max_streams + SPARE_STREAMS,
                credentials=_credentials(settings),
            )
        )
        failed = await stack.enter_async_context(
            tasks(collector=collect_calls(), pauses=Pauses(meter).run())
        )
        await failed


def _credentials(settings: GatewaySettings) -> grpc.ServerCredentials | None:
    """TLS, where it has a certificate."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return CertificateFiles(
        settings.tls_certificate, settings.tls_key, settings.tls_client_authority
    ).credentials()
