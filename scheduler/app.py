"""The scheduler's process, put together: database, memory, loops, services, in this order."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import grpc
import structlog

from atelier.catalog import Catalog
from atelier.config import SchedulerSettings
from atelier.database import Database
from atelier.generation import Failure, State
from atelier.generation_store import GenerationStore
from atelier.key_store import KeyStore
from atelier.metrics import exported, is_scraped
from atelier.migrate import migrate
from atelier.order_store import OrderStore
from atelier.pauses import Pauses, collect, settled
from atelier.preset_store import PresetStore
from atelier.service import STOP_GRACE_SECONDS, serving, tasks, unless_stopped
from atelier.stores import Stores
from atelier.tenant_store import TenantStore
from atelier.tls import peers_of
from atelier.traces import sending
from atelier.v1 import (
    access_store_pb2,
    access_store_pb2_grpc,
    agent_pb2,
    agent_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    preset_store_pb2,
    preset_store_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    tenant_store_pb2,
    tenant_store_pb2_grpc,
    webhook_store_pb2,
    webhook_store_pb2_grpc,
)
from atelier.webhook_store import WebhookStore
from scheduler.access_servicer import AccessServicer
from scheduler.admission import Admission
from scheduler.agent_servicer import AgentServicer
from scheduler.background import Background
from scheduler.care import Care
from scheduler.corrections import Corrections, component_bytes
from scheduler.dispatch import Dispatch
from scheduler.fleet import Fleet
from scheduler.fleet_servicer import FleetServicer
from scheduler.fleet_view import FleetView
from scheduler.fleet_watch import FleetWatch
from scheduler.history import History
from scheduler.intake import Intake
from scheduler.leadership import LEASE_SECONDS, Leadership
from scheduler.lines import Lines
from scheduler.live import Live
from scheduler.lives import Lives
from scheduler.measures import Measures, Names
from scheduler.model import models_of
from scheduler.orders import Orders
from scheduler.outcomes import Outcomes
from scheduler.peers import Peers
from scheduler.preset_servicer import PresetServicer
from scheduler.recent import Recent
from scheduler.reports import Reports
from scheduler.sched import Sched
from scheduler.scheduler_servicer import SchedulerServicer
from scheduler.standings import Standings
from scheduler.story import Stories
from scheduler.sysmon import Sysmon
from scheduler.tenant_retention import TenantRetention
from scheduler.tenant_servicer import TenantServicer
from scheduler.tenants import Tenants
from scheduler.webhook_servicer import WebhookServicer

log = structlog.get_logger()

LAPSED_GRACE_SECONDS = 0.2  # for calls under way: another may lead, who can carry them out
GONE = Failure("FAILED_PRECONDITION", "MODEL_GONE", "its model is no longer served")


async def run(settings: SchedulerSettings) -> None:
    """Stand by until it leads, then serve until SIGTERM or SIGINT, whenever that comes.

    Raises:
        RuntimeError: a loop failed; LeadershipLostError is its cause where another leads.
    """
    await unless_stopped(_run(settings))


async def _run(settings: SchedulerSettings) -> None:
    """The whole of it, from the inside out when it is cancelled."""
    began = time.monotonic()

    def clock() -> float:
        """Since we began: the core takes rates of demand over what it has seen."""
        return time.monotonic() - began

    catalog = Catalog.read(settings.model_repository)
    dsn = settings.postgres_dsn.get_secret_value()
    applied = await asyncio.to_thread(migrate, dsn)
    log.info("schema ready", applied=applied)

    async with AsyncExitStack() as stack:
        meter = stack.enter_context(exported("scheduler", settings.metrics_listen))
        lease = await stack.enter_async_context(
            Database(dsn, connections=1, answer_seconds=LEASE_SECONDS)
        )
        holder = f"{socket.gethostname()}/{settings.scheduler_listen}"
        leadership = Leadership(lease, holder, meter=meter)
        epoch = await leadership.won()
        stack.push_async_callback(leadership.resign)  # when all that is below has ended
        # From now on: with many unfinished generations, taking them up takes longer than the lease.
        renewing = await stack.enter_async_context(tasks(leadership=leadership.run()))
        store = await stack.enter_async_context(GenerationStore(dsn))
        store.database.epoch = epoch
        files = Stores.from_settings(settings.object_store) if settings.object_store else None
        if files:
            stack.callback(files.close)
        past = TenantRetention(store, files, settings.tenant_retention_days)
        history = History(store.database, settings.retention_days, past)
        await history.make_days()
        background = Background()
        stack.push_async_callback(background.close)
        sched = Sched(models_of(catalog.cards.values()))
        live = Live(sched, clock)
        traces = sending(
            settings.otlp_endpoint,
            ratio=settings.trace_ratio,
            slow_seconds=settings.trace_slow_seconds,
        )
        if sender := stack.enter_context(traces):
            live.journal.listener = Stories(_wall, sender.of_generation)
        lines = Lines(epoch)
        outcomes = Outcomes(store, live, lines)
        fleet = Fleet(live, lines, outcomes, background, clock=clock)
        care = Care(live, lines, fleet, outcomes, background, *_costs(catalog, sched), clock=clock)
        reports = Reports(live, lines, fleet, outcomes, background, care=care, clock=clock)
        recent = Recent(_wall)
        dispatch = Dispatch(store, live, lines, fleet, outcomes, recent, clock=clock)
        intake = Intake(store, live.accepted, live.unfit)
        sysmon = Sysmon(
            store,
            live,
            fleet,
            outcomes,
            background,
            grace_seconds=settings.agent_grace_seconds,
            clock=clock,
        )
        admission = Admission(live, intake, settings.max_queued, meter)
        tenants = Tenants(TenantStore(store.database), live, settings.default_plan)
        await tenants.take_up()
        orders = Orders(OrderStore(store.database), live, background)
        await orders.take_up()
        await _take_up(store, live, catalog)
        names = Names()
        if is_scraped(meter):
            live.watchers.heard = Measures(meter, live, names, clock=clock)
        store.database.measure(meter)
        standings = Standings(meter, live, fleet, names, clock=clock)
        stack.enter_context(settled())
        failed = await stack.enter_async_context(
            tasks(
                intake=intake.run(),
                dispatch=dispatch.run(),
                sysmon=sysmon.run(),
                care=care.run(),
                history=history.run(),
                tenants=tenants.run(),
                collector=collect(quiet=lambda: not live.queued),
                pauses=Pauses(meter).run(),
                standings=standings.run(),
            )
        )
        generations = SchedulerServicer(
            store,
            live,
            admission,
            dispatch,
            outcomes,
            background,
        )
        view = FleetView(live, fleet, _wall)
        watch = FleetWatch(view, recent, epoch=epoch, clock=clock)
        lives = Lives(store.database, live.journal, view, epoch=epoch, wall=_wall)
        operators = FleetServicer(live, view, watch, recent, orders, background, lives)
        presets = PresetServicer(PresetStore(store.database))
        plans = TenantServicer(tenants)
        access = AccessServicer(KeyStore(store.database))
        webhooks = WebhookServicer(WebhookStore(store.database))
        certificates = peers_of(settings)
        peers = Peers(settings.peer_identity) if certificates else None
        agents = AgentServicer(
            lines, fleet, reports, report_seconds=settings.report_seconds, peers=peers
        )

        def register(server: grpc.aio.Server) -> None:
            scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(generations, server)
            fleet_pb2_grpc.add_FleetServiceServicer_to_server(operators, server)
            preset_store_pb2_grpc.add_PresetStoreServiceServicer_to_server(presets, server)
            access_store_pb2_grpc.add_AccessStoreServiceServicer_to_server(access, server)
            tenant_store_pb2_grpc.add_TenantStoreServiceServicer_to_server(plans, server)
            webhook_store_pb2_grpc.add_WebhookStoreServiceServicer_to_server(webhooks, server)
            agent_pb2_grpc.add_AgentServiceServicer_to_server(agents, server)

        services = [
            scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"],
            fleet_pb2.DESCRIPTOR.services_by_name["FleetService"],
            preset_store_pb2.DESCRIPTOR.services_by_name["PresetStoreService"],
            access_store_pb2.DESCRIPTOR.services_by_name["AccessStoreService"],
            tenant_store_pb2.DESCRIPTOR.services_by_name["TenantStoreService"],
            webhook_store_pb2.DESCRIPTOR.services_by_name["WebhookStoreService"],
            agent_pb2.DESCRIPTOR.services_by_name["AgentService"],
        ]

        @asynccontextmanager
        async def port() -> AsyncIterator[None]:
            live.watchers.welcome()
            watch.welcome()
            async with serving(
                settings.scheduler_listen,
                services,
                register,
                meter=meter,
                interceptors=[peers] if peers else [],
                credentials=certificates.of_server() if certificates else None,
                grace_seconds=lambda: (
                    LAPSED_GRACE_SECONDS if leadership.has_lapsed() else STOP_GRACE_SECONDS
                ),
            ):
                sysmon.serving()
                try:
                    yield
                finally:
                    sysmon.silent()
                    live.watchers.end_all()
                    watch.end_all()
                    lines.end_all()

        served = await stack.enter_async_context(tasks(port=leadership.serve(port)))
        # Shielded, for who gave them may still look at them.
        await asyncio.gather(*map(asyncio.shield, (renewing, failed, served)))


def _costs(catalog: Catalog, sched: Sched) -> tuple[Corrections, list[str]]:
    """What models cost until it is measured, and those that devices are tried with."""
    cards = catalog.cards.values()
    corrections = Corrections(sched.models, {c.name: component_bytes(c) for c in cards})
    images = [card for card in cards if card.kind == "image"]
    return corrections, [c.name for c in sorted(images, key=lambda card: card.resident_bytes)]


def _wall() -> datetime:
    return datetime.now(UTC)


async def _take_up(store: GenerationStore, live: Live, catalog: Catalog) -> None:
    """Everything unfinished: the queued wait again, the running wait for their agents."""
    rows = await store.unfinished()
    for number, row in enumerate(rows):
        if number % 500 == 0:
            await asyncio.sleep(0)  # for the lease to be renewed
        if catalog.get(row.model) is None:
            await store.fail(row.id, row.lease_token, GONE)
        elif row.state is State.QUEUED:
            live.accepted(row)
        else:
            live.claimed(row)
            live.watch_deadline(row)
            if row.cancel_requested:
                live.cancelling.add(row.id)
    log.info("took up", unfinished=len(rows))
