"""TenantService and UsageService: plans, for operators; what was used, for whoever used it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias

import grpc

from atelier.api_keys import tenant_violations
from atelier.errors import PermissionDeniedError, Violation, refuse
from atelier.plan import plan_violations
from atelier.plan_messages import plan_from
from atelier.v1 import tenant_pb2 as pb
from atelier.v1 import tenant_pb2_grpc as pb_grpc
from atelier.v1 import tenant_store_pb2 as store_pb
from atelier.v1 import usage_pb2, usage_pb2_grpc
from gateway.identity import caller
from gateway.scheduler_client import SchedulerClient

Context: TypeAlias = grpc.aio.ServicerContext

DEFAULT_DAYS, MOST_DAYS = 30, 400


class TenantServicer(pb_grpc.TenantServiceServicer):
    """Checks, and hands on."""

    def __init__(self, scheduler: SchedulerClient) -> None:
        self._scheduler = scheduler

    async def SetTenant(
        self, request: pb.SetTenantRequest, context: Context
    ) -> pb.SetTenantResponse:
        bad = tenant_violations(request.name, "name")
        plan = plan_from(request.plan)
        if plan is None:
            text = f"unknown value {request.plan.highest_priority}"
            bad.append(Violation("plan.highest_priority", text))
        else:
            bad += plan_violations(plan)
        refuse(bad)
        asked = store_pb.WriteTenantRequest(name=request.name, plan=request.plan)
        answer: store_pb.WriteTenantResponse = await self._scheduler.ask(
            self._scheduler.tenants.WriteTenant, asked, context
        )
        return pb.SetTenantResponse(tenant=answer.tenant)

    async def UnsetTenant(
        self, request: pb.UnsetTenantRequest, context: Context
    ) -> pb.UnsetTenantResponse:
        refuse(tenant_violations(request.name, "name"))
        asked = store_pb.ClearTenantRequest(name=request.name)
        answer: store_pb.ClearTenantResponse = await self._scheduler.ask(
            self._scheduler.tenants.ClearTenant, asked, context
        )
        return pb.UnsetTenantResponse(tenant=answer.tenant)

    async def GetTenant(
        self, request: pb.GetTenantRequest, context: Context
    ) -> pb.GetTenantResponse:
        refuse(tenant_violations(request.name, "name"))
        answer = await self._read(request.name, context)
        return pb.GetTenantResponse(tenant=answer.tenants[0])

    async def ListTenants(
        self, request: pb.ListTenantsRequest, context: Context
    ) -> pb.ListTenantsResponse:
        answer = await self._read("", context)
        return pb.ListTenantsResponse(tenants=answer.tenants, house_plan=answer.house_plan)

    async def _read(self, name: str, context: Context) -> store_pb.ReadTenantsResponse:
        asked = store_pb.ReadTenantsRequest(name=name)
        return await self._scheduler.ask(self._scheduler.tenants.ReadTenants, asked, context)


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """Everybody sees his own."""

    def __init__(self, scheduler: SchedulerClient) -> None:
        self._scheduler = scheduler

    async def GetUsage(
        self, request: usage_pb2.GetUsageRequest, context: Context
    ) -> usage_pb2.GetUsageResponse:
        who = caller()
        tenant = request.tenant or who.tenant
        bad = tenant_violations(tenant, "tenant")
        first, last = _days(request, datetime.now(UTC).date(), bad)
        if "\0" in request.model:
            bad.append(Violation("model", "must not contain the character NUL"))
        refuse(bad)
        if tenant != who.tenant and not who.is_admin:
            raise PermissionDeniedError("admin", "the use of another tenant")
        asked = store_pb.ReadUsageRequest(
            tenant=tenant,
            first_day=first.isoformat(),
            last_day=last.isoformat(),
            model=request.model,
        )
        answer: store_pb.ReadUsageResponse = await self._scheduler.ask(
            self._scheduler.tenants.ReadUsage, asked, context
        )
        return usage_pb2.GetUsageResponse(usage=answer.usage, tenant=tenant, plan=answer.plan)


def _days(
    request: usage_pb2.GetUsageRequest, today: date, bad: list[Violation]
) -> tuple[date, date]:
    last = _day(request.last_day, "last_day", today, bad)
    before = last - min(timedelta(days=DEFAULT_DAYS), last - date.min)
    first = _day(request.first_day, "first_day", before, bad)
    if not timedelta() <= last - first <= timedelta(days=MOST_DAYS):
        text = f"must lie at most {MOST_DAYS} days before last_day ({last}); got {first}"
        bad.append(Violation("first_day", text))
    return first, last


def _day(text: str, field: str, default: date, bad: list[Violation]) -> date:
    if not text:
        return default
    try:
        day = date.fromisoformat(text)
        if day.isoformat() == text:
            return day
    except ValueError:
        pass
    bad.append(Violation(field, "must be a day such as 2026-11-01, or left out"))
    return default
