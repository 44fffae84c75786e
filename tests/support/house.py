"""The scheduler's loops in this process, over a real store: for faults between two statements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from opentelemetry.metrics import NoOpMeter

from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from atelier.order_store import OrderStore
from atelier.v1 import agent_pb2
from atelier.v1 import scheduler_pb2 as pb
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
from scheduler.intake import Intake
from scheduler.lines import Lines
from scheduler.live import Live
from scheduler.lives import Lives
from scheduler.model import model_of
from scheduler.orders import Orders
from scheduler.outcomes import Outcomes
from scheduler.recent import Recent
from scheduler.reports import Reports
from scheduler.sched import Sched
from scheduler.scheduler_servicer import SchedulerServicer
from scheduler.sysmon import Sysmon
from tests.support.cards import toy_card


class House:
    """All of it but the clocks of sysmon and care: tests tick by hand. One scripted device, d0 of
    node n0."""

    def __init__(self, store: GenerationStore) -> None:
        clock = time.monotonic
        self.store = store
        self.background = Background()
        self.live = Live(Sched({"toy": model_of(toy_card())}), clock)
        self.lines = Lines(epoch=1)
        self.outcomes = Outcomes(store, self.live, self.lines)
        self.fleet = Fleet(self.live, self.lines, self.outcomes, self.background, clock=clock)
        self.care = Care(
            self.live,
            self.lines,
            self.fleet,
            self.outcomes,
            self.background,
            Corrections(self.live.sched.models, {"toy": component_bytes(toy_card())}),
            ["toy"],
            clock=clock,
        )
        self.reports = Reports(
            self.live,
            self.lines,
            self.fleet,
            self.outcomes,
            self.background,
            care=self.care,
            clock=clock,
        )
        self.recent = Recent(lambda: datetime.now(UTC))
        self.dispatch = Dispatch(
            store, self.live, self.lines, self.fleet, self.outcomes, self.recent, clock=clock
        )
        self.intake = Intake(store, self.live.accepted, self.live.unfit)
        self.sysmon = Sysmon(
            store,
            self.live,
            self.fleet,
            self.outcomes,
            self.background,
            grace_seconds=1,
            clock=clock,
        )
        self.sysmon.serving()
        self.servicer = SchedulerServicer(
            store,
            self.live,
            Admission(self.live, self.intake, 100, NoOpMeter("")),
            self.dispatch,
            self.outcomes,
            self.background,
        )
        self.orders = Orders(OrderStore(store.database), self.live, self.background)
        view = FleetView(self.live, self.fleet, lambda: datetime.now(UTC))
        lives = Lives(
            store.database, self.live.journal, view, epoch=1, wall=lambda: datetime.now(UTC)
        )
        self.fleet_watch = FleetWatch(view, self.recent, epoch=1, clock=clock)
        self.operators = FleetServicer(
            self.live, view, self.fleet_watch, self.recent, self.orders, self.background, lives
        )
        self.agents = AgentServicer(self.lines, self.fleet, self.reports, report_seconds=1.0)

    async def __aenter__(self) -> Self:
        self._loops = [
            asyncio.create_task(self.dispatch.run()),
            asyncio.create_task(self.intake.run()),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for loop in self._loops:
            assert not loop.done(), loop
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.background.close()

    def join(
        self,
        attempts: Iterable[agent_pb2.Attempt] = (),
        *,
        capacity: int = 1_000,
        resident: Iterable[str] = ("toy",),
    ) -> list[agent_pb2.Attempt]:
        """Connect the scripted agent; what was revoked."""
        facts = agent_pb2.DeviceFacts(id="d0", capacity_bytes=capacity, resident_models=resident)
        hello = agent_pb2.Hello(node="n0", attempts=attempts, devices=[facts])
        self.line, revoked = self.fleet.join(hello)
        return revoked

    def hear(self, **message: Any) -> None:
        """The scripted agent says something."""
        self.reports.hear(self.line, agent_pb2.ConnectRequest(**message))

    def sample(self, *resident: str) -> None:
        """The scripted agent reports its device, healthy and with these models."""
        sample = agent_pb2.DeviceSample(device_id="d0", healthy=True, resident_models=resident)
        self.hear(device_report=agent_pb2.DeviceReport(samples=[sample]))

    async def command(self, kind: str, seconds: float = 5.0) -> agent_pb2.ConnectResponse:
        """The next command to the scripted agent of this kind; others are passed over."""
        async with asyncio.timeout(seconds):
            while True:
                command = await self.line.outgoing.get()
                if command and command.WhichOneof("message") == kind:
                    return command

    async def watch(self, generation_id: str) -> list[int]:
        """All states that a watcher sees."""
        async with asyncio.timeout(5):
            return [answer.generation.state async for answer in self.follow(generation_id)]

    def follow(self, generation_id: str) -> AsyncIterator[pb.FollowGenerationResponse]:
        request = pb.FollowGenerationRequest(tenant="local", id=generation_id)
        return self.servicer.FollowGeneration(request, None)

    async def stop(self, generation_id: str) -> int:
        request = pb.StopGenerationRequest(tenant="local", id=generation_id)
        answer = await self.servicer.StopGeneration(request, None)
        return answer.generation.state


@asynccontextmanager
async def house_over(dsn: str) -> AsyncIterator[House]:
    """One over a database that is empty so far."""
    migrate(dsn)
    async with GenerationStore(dsn) as store, House(store) as house:
        yield house
