"""TenantStoreService: plans and usage for the gateways, one method each."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import TypeAlias

import grpc

from atelier.plan import Plan
from atelier.plan_messages import plan_from, plan_to
from atelier.tenant_store import StoredPlan
from atelier.translate import time_to
from atelier.v1 import tenant_pb2, usage_pb2
from atelier.v1 import tenant_store_pb2 as pb
from atelier.v1 import tenant_store_pb2_grpc as pb_grpc
from scheduler.tenants import Tenants

Context: TypeAlias = grpc.aio.ServicerContext


class TenantServicer(pb_grpc.TenantStoreServiceServicer):
    """Reads and writes; who may is the gateway's to say."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def WriteTenant(
        self, request: pb.WriteTenantRequest, context: Context
    ) -> pb.WriteTenantResponse:
        plan = plan_from(request.plan)
        assert plan is not None  # the gateway looked
        stored = await self._tenants.set(request.name, plan)
        return pb.WriteTenantResponse(tenant=_own(stored))

    async def ClearTenant(
        self, request: pb.ClearTenantRequest, context: Context
    ) -> pb.ClearTenantResponse:
        await self._tenants.unset(request.name)
        return pb.ClearTenantResponse(tenant=_of_the_house(request.name, self._tenants.house_plan))

    async def ReadTenants(
        self, request: pb.ReadTenantsRequest, context: Context
    ) -> pb.ReadTenantsResponse:
        house, name = self._tenants.house_plan, request.name
        found = [
            _own(one) for one in await self._tenants.store.plans() if not name or one.tenant == name
        ]
        if name and not found:
            found = [_of_the_house(name, house)]
        return pb.ReadTenantsResponse(tenants=found, house_plan=plan_to(house))

    async def ReadUsage(
        self, request: pb.ReadUsageRequest, context: Context
    ) -> pb.ReadUsageResponse:
        first, last = map(date.fromisoformat, (request.first_day, request.last_day))
        found = await self._tenants.store.usage(request.tenant, first, last, request.model)
        return pb.ReadUsageResponse(
            usage=[usage_pb2.Usage(**{**asdict(one), "day": one.day.isoformat()}) for one in found],
            plan=plan_to(self._tenants.plan_of(request.tenant)),
        )


def _own(stored: StoredPlan) -> tenant_pb2.Tenant:
    return tenant_pb2.Tenant(
        name=stored.tenant,
        plan=plan_to(stored.plan),
        has_own_plan=True,
        update_time=time_to(stored.update_time),
    )


def _of_the_house(name: str, plan: Plan) -> tenant_pb2.Tenant:
    return tenant_pb2.Tenant(name=name, plan=plan_to(plan))
