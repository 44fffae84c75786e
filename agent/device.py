"""One device: its Triton, its step loop, what is resident there, and the attempts that run there.

Who may call: the link (admit, load, unload, sample, recycle, probe) and the app (wait_until_live,
run_loop). What it has to say goes through `tell`, which never blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from agent.attempt import AttemptRun
from agent.checkpoint import Checkpoints
from agent.gpu import Gauge
from agent.inputs import Inputs
from agent.loader import Files, Loader, unknown
from agent.probe import try_out
from agent.recycle import end_process
from agent.results import Results
from agent.step_loop import StepLoop
from agent.steps import Steps
from agent.tally import Run, Since, Tally
from agent.text import PromptIds
from agent.triton import LIVE_SECONDS, Triton
from agent.work import (
    BatchMeasured,
    DeviceFacts,
    DeviceSample,
    DeviceTold,
    Measure,
    ModelChanged,
    Probed,
    Recycled,
    Told,
    Trouble,
    Work,
)
from atelier.catalog import Catalog, ModelCard
from atelier.config import DeviceSettings
from atelier.errors import AtelierError, ExecutionError

log = structlog.get_logger()

LIVE_POLL_SECONDS = 0.2
BACK_SECONDS = 120.0  # for a Triton that was ended to be started again, by whoever keeps it
MEMORY_POLL_SECONDS = 0.25  # while a batch runs
FAULT_SECONDS = 30.0  # for so long an XID after which nothing can be trusted makes a device unfit
# NVIDIA's XID catalogue: double-bit ECC, page retirement or remapping failed, NVLink, off the bus,
# uncontained ECC, the GPU's own processor (GSP) does not answer.
FATAL_XIDS = frozenset({48, 64, 74, 79, 95, 119, 120})


class Device:
    """What the agent does on one device."""

    def __init__(
        self,
        settings: DeviceSettings,
        catalog: Catalog,
        triton: Triton,
        results: Results,
        *,
        inputs: Inputs,
        tokenizers: Mapping[str, PromptIds],
        clock: Callable[[], float],
        gauge: Gauge | None = None,
        files: Files | None = None,
        checkpoints: Checkpoints | None = None,
        tell: Callable[[DeviceTold], None] = lambda _: None,
        steps: Steps | None = None,
    ) -> None:
        """`gauge`: what the driver tells; without one nothing is measured. `checkpoints`: without
        any, a generation goes on where it left off on this device only. `steps`: who
        counts them."""
        self.id = settings.id
        self._settings = settings
        self._catalog = catalog
        self._triton = triton
        self._results = results
        self._inputs = inputs
        self._checkpoints = checkpoints or Checkpoints(None)
        self._tokenizers = tokenizers
        self._clock = clock
        self._tell = tell
        self._gauge = gauge or Gauge(None, settings.id)
        self._tally, self._quiet, self._steps = Tally(), Since(), steps
        self._loop = StepLoop(triton, clock, on_batch=self._stepped, on_idle=self._idle)
        self._stepping = asyncio.Event()  # a batch runs
        self._runs: set[AttemptRun] = set()  # those that need the device
        self._loader = Loader(
            settings.id, catalog, triton, self._gauge, clock=clock, in_use=self._uses, files=files
        )

    async def run_loop(self) -> None:
        """Run the step loop, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._loop.run())
            tasks.create_task(self._watch_memory())

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
        return tuple(sorted(self._loader.resident))

    def admit(self, work: Work, tell: Callable[[Told], None]) -> AttemptRun:
        """An attempt on this device. From now until it needs the device no more (it is decoded, or
        has ended), its model counts as in use.

        Raises:
            ExecutionError: the model is not known here, or makes something else.
        """
        card = self._catalog.get(work.model)
        if card is None:
            raise ExecutionError(
                "this agent does not know the model", retryable=True, reason="MODEL_UNKNOWN"
            )
        if card.kind != work.kind:
            raise ExecutionError(
                f"this model makes {card.kind}s", retryable=False, reason="NOT_IMPLEMENTED"
            )
        run = AttemptRun(
            work,
            card,
            tokenizer=self._tokenizers[card.name],
            triton=self._triton,
            loop=self._loop,
            inputs=self._inputs,
            results=self._results,
            checkpoints=self._checkpoints,
            tell=tell,
            leave=self._runs.discard,
        )
        self._runs.add(run)
        return run

    async def load(self, model: str) -> ModelChanged:
        """Load a model."""
        return await self._loader.load(model)

    async def unload(self, model: str) -> ModelChanged:
        """Unload a model."""
        return await self._loader.unload(model)

    async def recycle(self, reason: str) -> Recycled:
        """End its Triton, and see it come back with nothing loaded. Waits for no load: a Triton
        that hangs is what this is for."""
        log.warning("recycling", device=self.id, reason=reason)
        started = self._clock()
        error: AtelierError | None = None
        try:
            await end_process(self._settings.triton_pid_file)
            self._loader.changes += 1
            if not await self._is_back(started + BACK_SECONDS):
                error = ExecutionError(
                    f"its Triton was ended, and did not come back within {BACK_SECONDS:g} s",
                    retryable=True,
                    reason="TRITON_GONE",
                )
        except ExecutionError as failure:
            error = failure
        seconds = self._clock() - started
        log.warning("recycled" if not error else "not recycled", device=self.id,
                    seconds=round(seconds, 1), reason=error.reason if error else None)  # fmt: skip
        return Recycled(self.id, seconds, error)

    async def probe(self, model: str) -> Probed:
        """Try whether it works: the driver, Triton, and one step of a model where one is named."""
        started = self._clock()
        error: AtelierError | None = None
        sample = await self.sample()
        card = self._catalog.get(model) if model else None
        if not sample.healthy:
            error = ExecutionError(sample.reason, retryable=True, reason="DEVICE_UNAVAILABLE")
        elif model and card is None:
            error = unknown(model)
        elif card:
            try:
                ids = self._tokenizers[card.name].encode("", "")
                await self._loader.borrow(card, lambda: try_out(self._triton, card, ids))
            except ExecutionError as failure:
                error = failure
        log.info("probed", device=self.id, model=model, reason=error.message if error else None)
        return Probed(self.id, self._clock() - started, error)

    async def sample(self) -> DeviceSample:
        """How the device is; what is resident is as Triton tells, or as it last told."""
        silence, measure = await asyncio.gather(self._silence(), self._gauge.sample())
        now = self._clock()
        xids = tuple((xid.code, max(0.0, now - xid.at)) for xid in measure.xids)
        trouble, reason = _trouble(measure, xids, silence)
        return DeviceSample(self.id, trouble, reason, measure, self.resident, xids)

    async def explain(self, error: AtelierError) -> AtelierError:
        """Why an attempt failed here: the work is not to blame where the device itself broke."""
        sample = await self.sample()
        if sample.trouble not in (Trouble.LOST, Trouble.FAULT):
            return error
        return ExecutionError(
            "the device failed under it", retryable=True, reason="DEVICE_UNAVAILABLE"
        )

    async def facts(self) -> DeviceFacts:
        """What the device is, for a Hello."""
        sample = await self.sample()
        settings, total = self._settings, sample.measure.total_bytes
        capacity = settings.capacity_bytes
        if 0 < total < capacity:
            log.warning("more memory is declared than there is", device=self.id,
                        declared=capacity, measured=total)  # fmt: skip
            capacity = total
        return DeviceFacts(settings.id, settings.hardware, capacity, sample.resident_models)

    async def close(self) -> None:
        """Let go of Triton."""
        self._gauge.close()
        await self._triton.close()

    async def _silence(self) -> str:
        """Why Triton does not answer as it should, if so; learns what is resident."""
        changes = self._loader.changes
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                live = await self._triton.live()
                loaded = await self._triton.resident()
        except TimeoutError:
            return f"Triton gave no answer within {LIVE_SECONDS:g} s"
        except ExecutionError as error:
            return error.message
        self._loader.seen(loaded, changes)
        return "" if live else "Triton says that it is not live"

    async def _is_back(self, give_up: float) -> bool:
        while await self._silence():
            if self._clock() > give_up:
                return False
            await asyncio.sleep(LIVE_POLL_SECONDS)
        return True

    def _uses(self, model: str) -> bool:
        return any(run.card.name == model for run in self._runs)

    # What batches take.

    async def _watch_memory(self) -> None:
        while True:
            await self._stepping.wait()
            if used := await self._gauge.used_bytes():
                self._tally.memory(used)
            await asyncio.sleep(MEMORY_POLL_SECONDS)

    def _stepped(self, card: ModelCard, shape: str, rows: int, seconds: float) -> None:
        self._stepping.set()
        if self._steps:
            self._steps.record(card.name, shape, rows, seconds)
        held = card.profile(shape).activation_bytes_per_row * rows
        self._quiet.runs(card.name, held, self._loader.changes)
        self._told(self._tally.step((card.name, shape, rows), seconds, self._clock()))

    def _idle(self) -> None:
        self._stepping.clear()
        self._told(self._tally.end(self._clock()))

    def _told(self, run: Run | None) -> None:
        if run:
            model, shape, rows = run.composition
            held = self._catalog.cards[model].profile(shape).activation_bytes_per_row * rows
            quiet = self._loader.quiet_bytes if self._quiet.is_largest(model, held) else 0
            self._tell(
                BatchMeasured(
                    self.id, model, shape, rows, run.steps, run.step_seconds, run.peak_bytes,
                    self.resident, quiet,
                )
            )  # fmt: skip


def _trouble(
    measure: Measure, xids: tuple[tuple[int, float], ...], silence: str
) -> tuple[Trouble, str]:
    """What is wrong, the worst first, and in words."""
    if measure.lost:
        return Trouble.LOST, measure.lost
    fatal = [code for code, age in xids if code in FATAL_XIDS and age < FAULT_SECONDS]
    if fatal:
        return Trouble.FAULT, f"the driver told of XID {fatal[-1]}"
    if silence:
        return Trouble.TRITON, silence
    return Trouble.NONE, ""
