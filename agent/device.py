"""One device: its Triton, its step loop, what is resident there, and the attempts that run there.

Who may call: the link (admit, load, unload, sample) and the app (wait_until_live, run_loop).
What it has to say goes through `tell`, which never blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from agent.attempt import AttemptRun
from agent.nvml import NOTHING, Measure
from agent.results import Results
from agent.step_loop import StepLoop
from agent.text import PromptTokenizer
from agent.triton import LIVE_SECONDS, Triton
from agent.work import DeviceFacts, DeviceSample, ModelChanged, Told, Work
from atelier.catalog import Catalog, ModelCard
from atelier.config import DeviceSettings
from atelier.errors import AtelierError, ExecutionError

log = structlog.get_logger()

LIVE_POLL_SECONDS = 0.2
UNLOAD_POLL_SECONDS = 0.05
UNLOAD_WAIT_SECONDS = 30.0  # for inferences that were still under way


class Measurer(Protocol):
    """What the driver tells of this device."""

    def __call__(self) -> Measure: ...


class Device:
    """What the agent does on one device."""

    def __init__(
        self,
        settings: DeviceSettings,
        catalog: Catalog,
        triton: Triton,
        results: Results,
        *,
        tokenizers: Mapping[str, PromptTokenizer],
        clock: Callable[[], float],
        measure: Measurer | None = None,
    ) -> None:
        self.id = settings.id
        self._settings = settings
        self._catalog = catalog
        self._triton = triton
        self._results = results
        self._tokenizers = tokenizers
        self._clock = clock
        self._measure = measure
        self._loop = StepLoop(triton, clock)
        self._runs: set[AttemptRun] = set()  # those that need the device
        self._loader = asyncio.Lock()  # one load or unload at a time, in the order they came
        self._resident: frozenset[str] = frozenset()
        self._changes = 0  # loads and unloads begun or ended; tells a sample that it is stale

    async def run_loop(self) -> None:
        """Run the step loop, for ever."""
        await self._loop.run()

    async def wait_until_live(self, patience_seconds: float) -> bool:
        """Whether Triton came alive within `patience_seconds`."""
        give_up = self._clock() + patience_seconds
        told = False
        while not (sample := await self.sample()).healthy:
            if self._clock() > give_up:
                log.error("triton did not come alive", device=self.id, reason=sample.reason)
                return False
            if not told:
                log.info("waiting for triton", device=self.id, reason=sample.reason)
                told = True
            await asyncio.sleep(LIVE_POLL_SECONDS)
        log.info("triton is live", device=self.id, resident_models=list(self.resident))
        return True

    @property
    def resident(self) -> tuple[str, ...]:
        """Models whose weights are here, as far as is known now."""
        return tuple(sorted(self._resident))

    def admit(self, work: Work, tell: Callable[[Told], None]) -> AttemptRun:
        """An attempt on this device. From now until it needs the device no more (it is decoded, or
        has ended), its model counts as in use.

        Raises:
            ExecutionError: the model is not known here.
        """
        card = self._catalog.get(work.model)
        if card is None:
            raise ExecutionError(
                "this agent does not know the model", retryable=True, reason="MODEL_UNKNOWN"
            )
        run = AttemptRun(
            work,
            card,
            tokenizer=self._tokenizers[card.name],
            triton=self._triton,
            loop=self._loop,
            results=self._results,
            tell=tell,
            leave=self._runs.discard,
        )
        self._runs.add(run)
        return run

    async def load(self, model: str) -> ModelChanged:
        """Load a model's components one after the other; all of them, or none in the end."""
        async with self._loader:
            started = self._clock()
            self._changes += 1
            error = None
            card = self._catalog.get(model)
            if card is None:
                error = _unknown(model)
            else:
                error = await self._load(card)
            self._resident = self._resident - {model} if error else self._resident | {model}
            self._changes += 1
            seconds = self._clock() - started
            log.info("model loaded" if not error else "model did not load", device=self.id,
                     model=model, seconds=round(seconds, 3),
                     reason=error.reason if error else None)  # fmt: skip
            return ModelChanged(self.id, model, error is None, seconds, error)

    async def unload(self, model: str) -> ModelChanged:
        """Unload a model's components, the last loaded first, and see them gone."""
        async with self._loader:
            started = self._clock()
            self._changes += 1
            card = self._catalog.get(model)
            if card is None:
                error: AtelierError | None = _unknown(model)
            elif any(run.card.name == model for run in self._runs):
                error = AtelierError("the model is in use", reason="MODEL_IN_USE")
                error.code = "FAILED_PRECONDITION"
            else:
                error = await self._unload(card)
            if error is None:
                self._resident -= {model}
            self._changes += 1
            seconds = self._clock() - started
            log.info("model unloaded" if not error else "model did not unload", device=self.id,
                     model=model, seconds=round(seconds, 3),
                     reason=error.reason if error else None)  # fmt: skip
            return ModelChanged(self.id, model, model in self._resident, seconds, error)

    async def sample(self) -> DeviceSample:
        """How the device is; what is resident is as Triton tells, or as it last told."""
        reason, measure = await asyncio.gather(self._trouble(), self._measured())
        return DeviceSample(
            device_id=self.id,
            healthy=not reason,
            reason=reason,
            measured_bytes=measure.used_bytes,
            utilisation_percent=measure.utilisation_percent,
            resident_models=self.resident,
        )

    async def facts(self) -> DeviceFacts:
        """What the device is, for a Hello."""
        sample = await self.sample()
        settings = self._settings
        return DeviceFacts(
            settings.id, settings.hardware, settings.capacity_bytes, sample.resident_models
        )

    async def close(self) -> None:
        """Let go of Triton."""
        await self._triton.close()

    async def _trouble(self) -> str:
        """What is wrong with Triton, if anything; learns what is resident."""
        changes = self._changes
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                live = await self._triton.live()
                loaded = await self._triton.resident()
        except TimeoutError:
            return f"Triton gave no answer within {LIVE_SECONDS:g} s"
        except ExecutionError as error:
            return error.message
        if self._changes == changes:  # else a load or unload knows better
            self._resident = self._models_of(loaded)
        return "" if live else "Triton says that it is not live"

    async def _measured(self) -> Measure:
        """What the driver tells; a driver that hangs tells nothing, and holds only its thread."""
        if self._measure is None:
            return NOTHING
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                return await asyncio.to_thread(self._measure)
        except TimeoutError:
            log.warning("the driver gave no answer", device=self.id, seconds=LIVE_SECONDS)
            return NOTHING

    async def _load(self, card: ModelCard) -> AtelierError | None:
        try:
            for name in card.components.triton_models:
                await self._triton.load(card, name)
        except ExecutionError as error:
            await self._unload(card)  # no half of a model keeps memory
            return error
        return None

    async def _unload(self, card: ModelCard) -> AtelierError | None:
        names = card.components.triton_models
        try:
            for name in reversed(names):
                await self._triton.unload(name)
            give_up = self._clock() + UNLOAD_WAIT_SECONDS
            while not (await self._triton.resident()).isdisjoint(names):
                if self._clock() > give_up:
                    return ExecutionError(
                        "Triton did not let go of the model", retryable=True, reason="UNLOAD_STUCK"
                    )
                await asyncio.sleep(UNLOAD_POLL_SECONDS)
        except ExecutionError as error:
            return error
        return None

    def _models_of(self, loaded: frozenset[str]) -> frozenset[str]:
        return frozenset(
            name
            for name, card in self._catalog.cards.items()
            if loaded.issuperset(card.components.triton_models)
        )


def _unknown(model: str) -> AtelierError:
    error = AtelierError(f"this agent has no model {model[:64]}", reason="MODEL_UNKNOWN")
    error.code = "NOT_FOUND"
    return error
