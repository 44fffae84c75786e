"""`atelier tenants` and `atelier usage`: what tenants may ask for, and what they used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from atelier.cli.fleet import CALL_SECONDS, print_json, say
from atelier.cli.options import AddressOption, StateDirOption, ask, wide
from atelier.cli.problems import BAD_INPUT, ProblemError
from atelier.cli.up import DEFAULT_STATE_DIR
from atelier.cli.where import Gateway, line_to
from atelier.generation import Priority
from atelier.suggest import known_names
from atelier.v1 import generation_pb2, tenant_pb2_grpc, usage_pb2, usage_pb2_grpc
from atelier.v1 import tenant_pb2 as pb

app = typer.Typer(help="What tenants may ask for.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Its name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]


@app.command("list")
def list_(
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show the tenants that have a plan of their own, and what everybody else has."""
    ask(address, state_dir, lambda where: _list(where, wide(), as_json=as_json))


@app.command()
def show(
    tenant: NameArgument,
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show a tenant's plan: its own, or the house's."""
    ask(address, state_dir, lambda where: _show(where, tenant, wide(), as_json=as_json))


@app.command("set")
def set_(
    tenant: NameArgument,
    priority: Annotated[
        str | None, typer.Option(help="The most urgent class: batch, normal, interactive.")
    ] = None,
    requests: Annotated[float | None, typer.Option(help="Generations a second.")] = None,
    burst: Annotated[int | None, typer.Option(help="Generations at once after a pause.")] = None,
    gpu_seconds: Annotated[float | None, typer.Option(help="Of devices, an hour.")] = None,
    gpu_burst: Annotated[float | None, typer.Option(help="Of devices, after a pause.")] = None,
    queued: Annotated[int | None, typer.Option(help="That may wait.")] = None,
    unfinished: Annotated[int | None, typer.Option(help="That may wait and run.")] = None,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Change what is named of a tenant's plan, from its own or the house's; 0: no bound."""
    numbers = {
        "requests_per_second": requests,
        "requests_burst": burst,
        "gpu_seconds_per_hour": gpu_seconds,
        "gpu_seconds_burst": gpu_burst,
        "max_queued": queued,
        "max_unfinished": unfinished,
    }
    given = {name: value for name, value in numbers.items() if value is not None}
    ask(address, state_dir, lambda where: _set(where, tenant, priority, given, wide()))


@app.command()
def unset(
    tenant: NameArgument,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Take a tenant's own plan away: it has the house's again."""
    ask(address, state_dir, lambda where: _unset(where, tenant, Console()))


def usage(
    tenant: Annotated[str, typer.Argument(metavar="[TENANT]", help="Else your own.")] = "",
    since: Annotated[str, typer.Option(help="The first day, 2026-11-01; else 30 before.")] = "",
    until: Annotated[str, typer.Option(help="The last day; else today (UTC).")] = "",
    model: Annotated[str, typer.Option(help="Only this one.")] = "",
    as_json: JsonOption = False,
    address: AddressOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Show what was used, by day and model: GPU-seconds, pictures, videos, bytes."""
    request = usage_pb2.GetUsageRequest(tenant=tenant, first_day=since, last_day=until, model=model)
    ask(address, state_dir, lambda where: _usage(where, request, wide(), as_json=as_json))


@asynccontextmanager
async def _tenants_at(where: Gateway) -> AsyncIterator[tenant_pb2_grpc.TenantServiceStub]:
    async with line_to(where) as line:
        yield tenant_pb2_grpc.TenantServiceStub(line)


async def _list(where: Gateway, console: Console, *, as_json: bool) -> None:
    async with _tenants_at(where) as tenants:
        answer = await tenants.ListTenants(pb.ListTenantsRequest(), timeout=CALL_SECONDS)
    if as_json:
        print_json(answer)
    else:
        everybody = pb.Tenant(name="(everybody else)", plan=answer.house_plan)
        console.print(table([*answer.tenants, everybody]))


async def _show(where: Gateway, name: str, console: Console, *, as_json: bool) -> None:
    async with _tenants_at(where) as tenants:
        answer = await tenants.GetTenant(pb.GetTenantRequest(name=name), timeout=CALL_SECONDS)
    if as_json:
        print_json(answer)
    else:
        console.print(table([answer.tenant]))


async def _set(
    where: Gateway, name: str, priority: str | None, numbers: dict[str, float], console: Console
) -> None:
    async with _tenants_at(where) as tenants:
        found = await tenants.GetTenant(pb.GetTenantRequest(name=name), timeout=CALL_SECONDS)
        plan = found.tenant.plan
        if priority is not None:
            plan.highest_priority = _class_of(priority)
        for field, value in numbers.items():
            setattr(plan, field, value)
        request = pb.SetTenantRequest(name=name, plan=plan)
        answer = await tenants.SetTenant(request, timeout=CALL_SECONDS)
    console.print(table([answer.tenant]))


async def _unset(where: Gateway, name: str, console: Console) -> None:
    async with _tenants_at(where) as tenants:
        await tenants.UnsetTenant(pb.UnsetTenantRequest(name=name), timeout=CALL_SECONDS)
    say(console, f"{name} has the plan of everybody that has none of his own")


async def _usage(
    where: Gateway, request: usage_pb2.GetUsageRequest, console: Console, *, as_json: bool
) -> None:
    async with line_to(where) as line:
        service = usage_pb2_grpc.UsageServiceStub(line)
        answer = await service.GetUsage(request, timeout=CALL_SECONDS)
    if as_json:
        print_json(answer)
    elif answer.usage:
        console.print(usage_table(answer.usage))
    else:
        say(console, f"{answer.tenant} used nothing in that time")


def _class_of(word: str) -> generation_pb2.Priority.ValueType:
    """
    Raises:
        ProblemError: there is no such class.
    """
    try:
        return generation_pb2.Priority.Value(f"PRIORITY_{Priority(word.upper())}")
    except ValueError as error:
        known = known_names(word, [one.lower() for one in Priority])
        raise ProblemError([f"--priority {word}: {known}"], BAD_INPUT) from error


def table(tenants: Sequence[pb.Tenant]) -> Table:
    """Plans for a person."""
    rows = Table("TENANT", "UP TO", "REQUESTS/s", "GPU-SECONDS/h", "WAITING", "UNFINISHED")
    for tenant in tenants:
        plan = tenant.plan
        highest = generation_pb2.Priority.Name(plan.highest_priority)
        rows.add_row(
            tenant.name if tenant.has_own_plan or tenant.name.startswith("(")
            else f"{tenant.name} (as everybody)",
            highest.removeprefix("PRIORITY_").lower(),
            _bound(plan.requests_per_second, plan.requests_burst),
            _bound(plan.gpu_seconds_per_hour, plan.gpu_seconds_burst),
            _bound(plan.max_queued), _bound(plan.max_unfinished),
        )  # fmt: skip
    return rows


def usage_table(usage: Sequence[usage_pb2.Usage]) -> Table:
    """Usage for a person."""
    rows = Table("DAY", "MODEL", "ENDED", "SUCCEEDED", "GPU-SECONDS", "PICTURES", "VIDEOS", "BYTES")
    for one in usage:
        rows.add_row(
            one.day, one.model, str(one.generations), str(one.succeeded),
            f"{one.gpu_seconds:.1f}", str(one.pictures), str(one.videos),
            _size(one.bytes),
        )  # fmt: skip
    return rows


def _size(count: int) -> str:
    """Bytes in the largest unit of which there is one at least."""
    for power, unit in enumerate(("B", "KiB", "MiB", "GiB")):
        if count < 1024 ** (power + 1):
            return f"{count / 1024**power:.{1 if power else 0}f} {unit}"
    return f"{count / 1024**4:,.1f} TiB"


def _bound(value: float, burst: float = 0) -> str:
    if not value:
        return "no bound"
    return f"{value:g}, {burst:g} at once" if burst else f"{value:g}"
