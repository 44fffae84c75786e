"""A node's devices without Triton: the agent's port to them, by the agent's own nouns.

`SimTriton` outlives its agent, as the real process does; `SimDevice` is the agent's hold of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from agent.work import (
    Attempt,
    BatchMeasured,
    DeviceFacts,
    DeviceSample,
    DeviceTold,
    Failed,
    HostFacts,
    Measure,
    ModelChanged,
    Outcome,
    Phase,
    Preempted,
    Probed,
    Progressed,
    Recycled,
    Released,
    Succeeded,
    Told,
    Trouble,
    Work,
)
from atelier.catalog import ModelCard
from atelier.errors import AtelierError, ExecutionError
from atelier.generation import Provenance, Result
from tests.simulated.loop import PROCESS
from tests.simulated.world import World

POISON, BAD = "poison", "bad"  # prompts: it ends its Triton; it can never be made
STEP_SECONDS = 0.1


class SimTriton:
    """What is resident, and whether it answers."""

    def __init__(self, world: World, device_id: str, capacity: int) -> None:
        self.world = world
        self.id = device_id
        self.capacity = capacity
        self.resident: set[str] = set()
        self.down_until = 0.0
        self.lost = False  # the driver has no hold of the GPU
        self.short = False  # of memory, whatever is counted
        self.away = False  # its agent does not name it when it starts
        self.flaky = 0.0  # how likely a load, or an attempt, fails by itself
        self._runs: list[SimRun] = []
        self.tell: Callable[[DeviceTold], None] = lambda _: None  # to its agent

    @property
    def runs(self) -> list[SimRun]:
        """Under way in it: none of an agent that died."""
        self._runs = [run for run in self._runs if run.process.alive]
        return self._runs

    @property
    def down(self) -> bool:
        return self.lost or self.world.loop.now < self.down_until

    def measured(self, run: SimRun) -> None:
        """A batch ended; what it took is told, as a driver would, with some noise."""
        noise, held = self.world.rng.uniform(0.7, 1.5), 100 * len(self.resident)
        self.tell(
            BatchMeasured(
                self.id, run.card.name, run.work.spec.shape, 1, run.work.spec.run_steps,
                STEP_SECONDS * noise, int(held + 10 * noise), tuple(sorted(self.resident)), held,
            )
        )  # fmt: skip

    def crash(self, by: SimRun | None = None) -> None:
        """It ends, `by` what it ran where it is to blame; all is to be loaded again. Who shared the
        call is suspected, whoever is between two of its own finds it away (agent/blame.py)."""
        self.resident.clear()
        self.down_until = self.world.loop.now + self.world.rng.uniform(0.5, 3.0)
        shared = [run for run in self.runs if by and not by.work.alone and not run.work.alone]
        for run in self.runs:
            run.broken = "DEVICE_DIED" if run in shared else "DEVICE_UNAVAILABLE"
        if by and len(shared) < 2:
            by.broken = "DEVICE_KILLED"


class SimRun:
    """In the place of agent.attempt.AttemptRun."""

    def __init__(
        self, triton: SimTriton, work: Work, card: ModelCard, tell: Callable[[Told], None]
    ) -> None:
        self.work, self.card = work, card
        self.broken = ""
        process = PROCESS.get()
        assert process
        self.process = process
        self._triton, self._tell = triton, tell
        self._cancelled = self._preempted = False
        self._made = 0

    def cancel(self) -> None:
        self._cancelled = True

    def preempt(self) -> None:
        self._preempted = True

    async def run(self) -> Outcome:
        attempt = self.work.attempt
        try:
            return await self._live(attempt)
        except ExecutionError as error:
            return Failed(attempt, error, retryable=error.retryable)

    async def _live(self, attempt: Attempt) -> Outcome:
        spec, triton, rng = self.work.spec, self._triton, self._triton.world.rng
        if spec.prompt == BAD:
            raise ExecutionError("never", retryable=False, reason="INVALID_SPEC")
        if rng.random() < triton.flaky:
            raise ExecutionError("by chance", retryable=True, reason="EXECUTION_FAILED")
        triton.runs.append(self)
        try:
            while self._made < spec.run_steps:
                if self._cancelled:
                    return _cancelled(attempt)
                if self._preempted:
                    return Preempted(attempt, self._made)
                await self._step()
        finally:
            if self in triton.runs:  # else its agent died, and this is its burial
                triton.runs.remove(self)
        self._tell(Released(attempt))
        triton.measured(self)
        await asyncio.sleep(rng.uniform(0.01, 0.5))
        if self._cancelled:
            return _cancelled(attempt)
        key = f"results/{self.work.tenant}/{attempt.generation_id}/{attempt.lease_token}/0.png"
        triton.world.objects.add(key)
        result = Result(0, key, "image/png", 10, 64, 64, f"{attempt.lease_token:064x}", 7)
        by = Provenance(self.card.version, "simulated", spec.sampler, triton.id)
        return Succeeded(attempt, (result,), by)

    async def _step(self) -> None:
        triton, spec = self._triton, self.work.spec
        if self.card.name not in triton.resident or triton.down:
            raise ExecutionError("the model is not there", retryable=True, reason="MODEL_NOT_READY")
        await asyncio.sleep(STEP_SECONDS * triton.world.rng.uniform(0.8, 1.2))
        if spec.prompt == POISON and self._made >= spec.run_steps // 2 and not self.broken:
            triton.crash(by=self)
        if self.broken:
            raise ExecutionError("its Triton ended", retryable=True, reason=self.broken)
        if triton.short:
            raise ExecutionError("no memory is left", retryable=True, reason="OUT_OF_MEMORY")
        self._made += 1
        self._tell(
            Progressed(self.work.attempt, Phase.DENOISING, self._made, spec.run_steps, STEP_SECONDS)
        )


def _cancelled(attempt: Attempt) -> Failed:
    gone = AtelierError("the attempt was cancelled", reason="CANCELLED")
    gone.code = "CANCELLED"
    return Failed(attempt, gone, retryable=False, cancelled=True)


class SimDevice:
    """In the place of agent.device.Device."""

    def __init__(self, triton: SimTriton, cards: dict[str, ModelCard]) -> None:
        self.id = triton.id
        self._triton, self._cards = triton, cards
        self._one = asyncio.Lock()  # loads and unloads, one after another

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(sorted(self._triton.resident))

    def admit(self, work: Work, tell: Callable[[Told], None]) -> SimRun:
        return SimRun(self._triton, work, self._cards[work.model], tell)

    async def load(self, model: str) -> ModelChanged:
        async with self._one:
            return await self._load(model)

    async def _load(self, model: str) -> ModelChanged:
        triton, rng = self._triton, self._triton.world.rng
        began = triton.world.loop.now
        seconds = self._cards[model].load_seconds * rng.uniform(0.5, 1.5)
        held = sum(self._cards[m].resident_bytes for m in triton.resident | {model})
        error: ExecutionError | None = None
        if held > triton.capacity or rng.random() < triton.flaky:
            error = ExecutionError("no room", retryable=True, reason="OUT_OF_MEMORY")
        await asyncio.sleep(0.01 if error else seconds)
        if triton.down or triton.down_until > began:
            error = ExecutionError("Triton is away", retryable=True, reason="DEVICE_UNAVAILABLE")
        if not error:
            triton.resident.add(model)
        there = model in triton.resident
        took = triton.world.loop.now - began
        return ModelChanged(self.id, model, resident=there, seconds=took, error=error)

    async def unload(self, model: str) -> ModelChanged:
        async with self._one:
            error: ExecutionError | None = None
            await asyncio.sleep(0.05)
            if any(run.card.name == model for run in self._triton.runs):
                error = ExecutionError("it is in use", retryable=True, reason="MODEL_IN_USE")
            elif self._triton.down:
                error = ExecutionError("away", retryable=True, reason="DEVICE_UNAVAILABLE")
            else:
                self._triton.resident.discard(model)
            there = model in self._triton.resident
            return ModelChanged(self.id, model, resident=there, seconds=0.05, error=error)

    async def recycle(self, reason: str) -> Recycled:
        self._triton.short = False
        self._triton.crash()
        seconds = self._triton.down_until - self._triton.world.loop.now
        await asyncio.sleep(seconds)
        return Recycled(self.id, seconds)

    async def probe(self, model: str) -> Probed:
        error: ExecutionError | None = None
        async with self._one:
            borrowed = bool(model) and model not in self._triton.resident
            if borrowed:
                error = (await self._load(model)).error  # type: ignore[assignment]
            await asyncio.sleep(0.1)
            if self._triton.down:
                error = ExecutionError("away", retryable=True, reason="DEVICE_UNAVAILABLE")
            if borrowed and not any(run.card.name == model for run in self._triton.runs):
                self._triton.resident.discard(model)
        return Probed(self.id, 0.1, error)

    async def sample(self) -> DeviceSample:
        await asyncio.sleep(0)
        trouble = Trouble.TRITON if self._triton.down else Trouble.NONE
        trouble = Trouble.LOST if self._triton.lost else trouble
        reason = "" if trouble is Trouble.NONE else "simulated"
        return DeviceSample(self.id, trouble, reason, Measure(answered=False), self.resident)

    async def facts(self) -> DeviceFacts:
        await asyncio.sleep(0)
        return DeviceFacts(self.id, "simulated", self._triton.capacity, self.resident)

    async def explain(self, error: AtelierError) -> AtelierError:
        if not self._triton.lost:
            return error
        return ExecutionError("its device", retryable=True, reason="DEVICE_UNAVAILABLE")


class SimHost:
    """In the place of agent.host_memory.HostMemory: files that come one after another."""

    def __init__(self, world: World, capacity: int, cards: dict[str, ModelCard]) -> None:
        self._world, self._capacity, self._cards = world, capacity, cards
        self._held: list[str] = []

    def facts(self) -> HostFacts:
        size = sum(self._cards[model].resident_bytes for model in self._held)
        return HostFacts(self._capacity, tuple(self._held), size)

    def keep(self, models: Iterable[str]) -> None:
        wanted = list(models)
        self._held = [model for model in self._held if model in wanted]
        later = asyncio.get_running_loop().call_later
        later(self._world.rng.uniform(0.1, 2.0), self._read, wanted)

    def _read(self, wanted: list[str]) -> None:
        for model in wanted:
            held = self.facts().resident_bytes
            if model not in self._held and held + 100 <= self._capacity:
                self._held.append(model)
