"""What befalls a schedule: some kinds of fault out of all, at moments drawn from the seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from atelier.v1 import fleet_pb2
from tests.simulated.device import SimTriton
from tests.simulated.loop import Process
from tests.simulated.network import ask
from tests.simulated.parts import CARDS, Keeper
from tests.simulated.world import World

STORE_FAULTS = (
    "fails", "wrote, told failure", "hangs", "hangs, writes", "hangs, writes late",
)  # fmt: skip
LATE_SECONDS = 20.0  # after which no write is under way any more


class Nemesis:
    """`operator`: the process that orders drains and pins."""

    def __init__(
        self,
        world: World,
        schedulers: list[Keeper],
        agents: list[Keeper],
        tritons: list[SimTriton],
        operator: Process,
    ) -> None:
        self._world = world
        self._schedulers, self._agents, self._tritons = schedulers, agents, tritons
        self._operator = operator
        self._out: asyncio.Task[None] | None = None
        self._doubles: list[Process] = []
        self._orders: list[asyncio.Task[None]] = []
        kinds: list[Callable[[], str]] = [
            self._crash_scheduler, self._crash_scheduler, self._freeze_scheduler,
            self._freeze_scheduler, self._stop_scheduler, self._crash_agent, self._freeze_agent,
            self._cut, self._crash_triton, self._lose_gpu, self._run_short, self._step_clock,
            self._step_database_clock, self._drain, self._pin, self._slow,
            self._freeze_leader, self._stop_agent, self._take_device, self._burst, self._flake,
            self._double_scheduler, self._double_agent, self._cut_off,
        ]  # fmt: skip
        # A few kinds at a time meet in more ways than all of them at once.
        self._kinds = world.rng.sample(kinds, world.rng.randint(2, 7))
        self._pace = world.rng.uniform(0.5, 6.0)  # seconds between two

    async def run(self, until: float) -> None:
        """In no process."""
        world, rng = self._world, self._world.rng
        for fault in rng.sample(STORE_FAULTS, rng.randint(0, 3)):
            world.store_faults[fault] = rng.choice((0.002, 0.01, 0.05, 0.2))
        if rng.random() < 0.2:
            self._out = asyncio.create_task(self._outage(until))
        while True:
            await asyncio.sleep(rng.expovariate(1 / self._pace))
            if world.loop.now >= until:
                return
            if told := rng.choice(self._kinds)():
                world.faults[told.split(":")[0]] += 1
                world.tell(f"fault: {told}")

    def heal(self) -> None:
        """From now on all is well, and stays so."""
        world = self._world
        if self._out:
            self._out.cancel()
        world.store_faults.clear()
        world.cut_off.clear()
        world.slowness = 1.0
        for triton in self._tritons:
            triton.lost = triton.short = False
            triton.flaky = 0.0
            if triton.away:
                triton.away = False
                for keeper in self._agents:
                    if triton.id.startswith(keeper.name):
                        keeper.process.kill()
        for process in self._doubles:
            process.kill()
        for process in world.processes:
            process.steps_left = None
            process.wall_offset = 0.0
            if process.alive and process.frozen:
                process.thaw()

    async def take_back_orders(self) -> None:
        """As its operator would: all of them, though orders from before may be under way."""
        await asyncio.gather(*self._orders)
        for triton in self._tritons:
            undrain = fleet_pb2.UndrainDeviceRequest(device_id=triton.id)
            await self._order("UndrainDevice", undrain)
            for model in CARDS:
                unpin = fleet_pb2.UnpinModelRequest(device_id=triton.id, model=model)
                await self._order("UnpinModel", unpin)
        await asyncio.sleep(LATE_SECONDS)
        if not self._world.servers:
            self._world.broken.append(f"P7: nobody serves {LATE_SECONDS:g} s after all is well")

    # The faults. Each says what was done, or nothing.

    def _crash_scheduler(self) -> str:
        return self._crash(self._schedulers)

    def _crash_agent(self) -> str:
        return self._crash(self._agents)

    def _crash(self, keepers: list[Keeper]) -> str:
        keeper, rng = self._world.rng.choice(keepers), self._world.rng
        if not keeper.process.alive:
            return ""
        keeper.process.steps_left = rng.choice((0, rng.randint(1, 30), rng.randint(1, 400)))
        return f"{_kind(keeper)} crashes: {keeper.name}"

    def _freeze_scheduler(self) -> str:
        return self._freeze(self._schedulers)

    def _freeze_agent(self) -> str:
        return self._freeze(self._agents)

    def _freeze(self, keepers: list[Keeper]) -> str:
        keeper, rng = self._world.rng.choice(keepers), self._world.rng
        process = keeper.process
        if not process.alive or process.frozen:
            return ""
        seconds = rng.choice((rng.uniform(0.1, 2.0), rng.uniform(3.0, 20.0)))
        self._world.freeze(process)
        asyncio.get_running_loop().call_later(seconds, _thaw, process)
        return f"{_kind(keeper)} freezes: {keeper.name} for {seconds:.1f} s"

    def _freeze_leader(self) -> str:
        """It stands still with writes on their way, long enough to be deposed."""
        for keeper in self._schedulers:
            if keeper.process.parts.get("live") and keeper.process.alive:
                process, rng = keeper.process, self._world.rng
                if process.frozen:
                    return ""
                self._world.freeze(process)
                loop = asyncio.get_running_loop()
                loop.call_later(rng.uniform(3.0, 8.0), _thaw, process)
                return f"scheduler freezes: {keeper.name}, deposed"
        return ""

    def _cut_off(self) -> str:
        """The database does not answer it; everybody else reaches it, and the database."""
        keeper, rng = self._world.rng.choice(self._schedulers), self._world.rng
        process = keeper.process
        if not process.alive:
            return ""
        self._world.cut_off.add(process)
        seconds = rng.uniform(1.0, 20.0)
        asyncio.get_running_loop().call_later(seconds, self._world.cut_off.discard, process)
        return f"scheduler cut off: {keeper.name}, {seconds:.1f} s"

    def _stop_scheduler(self) -> str:
        return self._stop(self._schedulers)

    def _stop_agent(self) -> str:
        return self._stop(self._agents)

    def _stop(self, keepers: list[Keeper]) -> str:
        keeper = self._world.rng.choice(keepers)
        if not keeper.process.alive:
            return ""
        keeper.stop()
        return f"{_kind(keeper)} stops: {keeper.name}"

    def _double_scheduler(self) -> str:
        return self._double(self._schedulers)

    def _double_agent(self) -> str:
        return self._double(self._agents)

    def _double(self, keepers: list[Keeper]) -> str:
        """One of the same name is started beside it while it stands still; then it wakes."""
        keeper, rng = self._world.rng.choice(keepers), self._world.rng
        if not keeper.process.alive or keeper.process.frozen:
            return ""
        old = keeper.double()
        self._doubles.append(old)
        later, wakes = asyncio.get_running_loop().call_later, rng.uniform(0.5, 10.0)
        later(wakes, _thaw, old)
        later(wakes + rng.uniform(0.5, 10.0), old.kill)
        return f"{_kind(keeper)} twice: {keeper.name}"

    def _take_device(self) -> str:
        """Its agent comes back without it, or with it again."""
        triton = self._world.rng.choice(self._tritons)
        triton.away = not triton.away
        for keeper in self._agents:
            if triton.id.startswith(keeper.name) and keeper.process.alive:
                keeper.process.kill()
        return f"device comes or goes: {triton.id}"

    def _flake(self) -> str:
        triton, rng = self._world.rng.choice(self._tritons), self._world.rng
        triton.flaky = rng.choice((0.0, 0.2, 0.7))
        return f"fails by chance: {triton.id}, {triton.flaky}"

    def _burst(self) -> str:
        """Several at once."""
        for kind in self._world.rng.sample(self._kinds, 2):
            if kind != self._burst and (told := kind()):
                self._world.faults[told.split(":")[0]] += 1
                self._world.tell(f"fault: {told}")
        return "at once"

    def _cut(self) -> str:
        calls = self._world.calls
        if not calls:
            return ""
        streams = [c for c in calls if any(c.client is k.process for k in self._agents)]
        call = self._world.rng.choice(streams or calls)
        call.cut(self._world.delay())
        return "stream cut"

    def _crash_triton(self) -> str:
        triton = self._world.rng.choice(self._tritons)
        triton.crash()
        return f"triton crashes: {triton.id}"

    def _lose_gpu(self) -> str:
        triton, rng = self._world.rng.choice(self._tritons), self._world.rng
        triton.crash()
        triton.lost = True
        later = asyncio.get_running_loop().call_later
        later(rng.uniform(1.0, 20.0), setattr, triton, "lost", False)
        return f"gpu lost: {triton.id}"

    def _run_short(self) -> str:
        triton, rng = self._world.rng.choice(self._tritons), self._world.rng
        triton.short = True
        later = asyncio.get_running_loop().call_later
        later(rng.uniform(0.1, 2.0), setattr, triton, "short", False)
        return f"out of memory: {triton.id}"

    def _step_clock(self) -> str:
        keeper, rng = self._world.rng.choice(self._schedulers), self._world.rng
        keeper.process.wall_offset = rng.choice((-3600.0, -10.0, -1.0, 1.0, 10.0, 3600.0))
        return f"clock steps: {keeper.name} is {keeper.process.wall_offset:+.0f} s"

    def _step_database_clock(self) -> str:
        self._world.wall_offset += self._world.rng.choice((-60.0, -2.0, 2.0, 60.0))
        return f"database's clock steps: it is {self._world.wall_offset:+.0f} s"

    def _drain(self) -> str:
        device = self._world.rng.choice(self._tritons).id
        request = fleet_pb2.DrainDeviceRequest(device_id=device, reason="simulated")
        self._order("DrainDevice", request)
        after = fleet_pb2.UndrainDeviceRequest(device_id=device)
        seconds = self._world.rng.uniform(1.0, 15.0)
        asyncio.get_running_loop().call_later(seconds, self._order, "UndrainDevice", after)
        return f"drain: {device}"

    def _pin(self) -> str:
        device, model = self._world.rng.choice(self._tritons).id, self._world.rng.choice("abc")
        self._order("PinModel", fleet_pb2.PinModelRequest(device_id=device, model=model))
        after = fleet_pb2.UnpinModelRequest(device_id=device, model=model)
        seconds = self._world.rng.uniform(1.0, 15.0)
        asyncio.get_running_loop().call_later(seconds, self._order, "UnpinModel", after)
        return f"pin: {model} on {device}"

    def _order(self, method: str, request: object) -> asyncio.Task[None]:
        """Sent until it is answered, by whatever."""

        async def order() -> None:
            for _ in range(100):
                try:
                    await ask(self._world, method, request)
                    return
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (
                        grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
                    ):  # fmt: skip
                        return
                await asyncio.sleep(1.0)

        self._orders.append(self._operator.start(order()))
        return self._orders[-1]

    def _slow(self) -> str:
        self._world.slowness = self._world.rng.choice((1.0, 5.0, 30.0))
        return f"messages are slow: {self._world.slowness:.0f} times"

    async def _outage(self, until: float) -> None:
        """The database is away for everybody."""
        rng = self._world.rng
        await asyncio.sleep(rng.uniform(0.0, until / 2))
        before = dict(self._world.store_faults)
        self._world.store_faults.update({rng.choice(("fails", "hangs")): 1.0})
        self._world.faults["database away"] += 1
        await asyncio.sleep(rng.choice((1.0, 5.0, 18.0)))
        self._world.store_faults.clear()
        self._world.store_faults.update(before)


def _thaw(process: Process) -> None:
    if process.alive and process.frozen:
        process.world.tell(f"{process.name} thaws")
        process.thaw()


def _kind(keeper: Keeper) -> str:
    return "scheduler" if keeper.name.startswith("s") else "agent"
