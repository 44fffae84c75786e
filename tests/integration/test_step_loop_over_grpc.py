"""The step loop, its Triton client and shared memory under faults, over real gRPC.

Random arrivals, cancels, preemptions and faults, on two devices: no row is lost, mixed up or
advanced twice, and no memory is left behind, under any name or mapped without one.
"""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.buffers import Region, StepBuffers
from agent.step_loop import StepLoop
from agent.triton import Triton
from tests.support.fake_triton import FAULTS, TritonOverGrpc
from tests.support.lives import Life, alone, check, lives
from tests.support.regions import left_behind
from tests.unit.agent.fakes import Ticks

events = st.lists(
    st.tuples(
        st.integers(0, 40), st.sampled_from(["cancel", "preempt", *FAULTS]), st.integers(0, 7)
    ),
    max_size=25,
)
Happenings = list[tuple[int, str, int]]


class House:
    """Two devices, each with its server, client and loop, and all that happens to them."""

    def __init__(self, script: list[Life], happenings: Happenings) -> None:
        self.script = script
        self.cancelled: set[int] = set()
        self.names: list[str] = []  # of all memory that was ever shared
        self._happenings = happenings
        self._calls = 0
        self.servers = [TritonOverGrpc(self.happens) for _ in range(2)]

    def happens(self) -> str | None:
        """At this call, of all calls of both devices."""
        now = [event for event in self._happenings if event[0] == self._calls]
        self._calls += 1
        for _, kind, who in now:
            life = self.script[who % len(self.script)]
            if kind == "cancel" and life.work and not life.ended:
                life.work.cancel()
                self.cancelled.add(who % len(self.script))
            elif kind == "preempt" and life.work:
                life.work.preempt()
        return next((kind for _, kind, _ in now if kind in FAULTS), None)

    def create(self, size: int) -> Region:
        region = Region.create(size)
        self.names.append(region.name)
        return region

    async def live(self) -> None:
        """Everything, from start to end."""
        for server in self.servers:
            await server.start()
        clients = [Triton(each.address, None, StepBuffers(self.create)) for each in self.servers]
        loops = [StepLoop(client, Ticks()) for client in clients]
        running = [asyncio.create_task(loop.run()) for loop in loops]
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(*(life.live(loops) for life in self.script))
            for _ in range(5):
                await asyncio.sleep(0)
            assert all(not loop._groups for loop in loops), "a member was left behind"
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for client in clients:
                await client.close()
        for server in self.servers:
            assert server.registered == 0
            assert server.complaints == []
            await server.stop()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(lives, min_size=1, max_size=8), events)
async def test_no_row_and_no_memory_is_lost_whatever_happens(
    script: list[Life], happenings: Happenings
) -> None:
    house = House(script, happenings)
    await house.live()
    check(script, house.cancelled, [await alone(life) for life in script])
    assert left_behind(house.names) == []


async def test_calls_go_through_shared_memory_but_where_it_was_lost() -> None:
    script = [Life(seed, 7, 2, "euler_ancestral", "64x64", 0) for seed in (0, 2)]  # one device
    house = House(script, [(3, "restart", 0), (5, "lost", 0), (8, "error", 0)])
    await house.live()
    check(script, set(), [await alone(life) for life in script])
    device, other = house.servers
    assert device.copied_calls == 1  # after the restart
    assert device.shared_calls + other.shared_calls == 6  # of the 7 steps that came through
    assert len(house.names) == 4  # one each, another after the restart, and after the lost answer
    assert left_behind(house.names) == []
