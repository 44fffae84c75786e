"""Loads and unloads models on one device, and knows what is resident there.

A model is several Triton models, and cards may name the same one: it is then loaded once, and
stays until the last model that uses it goes. One load or unload at a time, in the order they came.
Each is measured: its seconds, what it changed of the memory that the driver tells, and whether it
was read from the node's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from agent.gpu import Gauge
from agent.triton import Triton
from agent.work import ModelChanged
from atelier.catalog import Catalog, ModelCard
from atelier.errors import AtelierError, ExecutionError

log = structlog.get_logger()

UNLOAD_POLL_SECONDS = 0.05
UNLOAD_WAIT_SECONDS = 30.0  # for inferences that were still under way


class Files(Protocol):
    """What is known of the files of Triton models."""

    async def in_memory(self, triton_models: Sequence[str]) -> bool: ...


class Loader:
    """One device's models. `lock` is held while one comes or goes."""

    def __init__(
        self,
        device_id: str,
        catalog: Catalog,
        triton: Triton,
        gauge: Gauge,
        *,
        clock: Callable[[], float],
        in_use: Callable[[str], bool],
        files: Files | None = None,
    ) -> None:
        """`in_use` says whether an attempt needs a model."""
        self.lock = asyncio.Lock()
        self.resident: frozenset[str] = frozenset()
        self.changes = 0  # loads and unloads begun or ended; tells a look that it is stale
        self.quiet_bytes = 0  # in use after the latest of them; 0: not known
        self._device_id = device_id
        self._catalog = catalog
        self._triton = triton
        self._gauge = gauge
        self._clock = clock
        self._in_use = in_use
        self._files = files

    def seen(self, loaded: frozenset[str], changes: int) -> None:
        """Triton told which of its models are loaded, asked when `changes` was the count."""
        if self.changes == changes and not self.lock.locked():  # else who changes it knows better
            resident = frozenset(
                name
                for name, card in self._catalog.cards.items()
                if loaded.issuperset(card.components.triton_models)
            )
            if resident != self.resident:  # its Triton was started anew, or somebody else's hand
                self.resident, self.quiet_bytes = resident, 0
                self.changes += 1

    async def load(self, model: str) -> ModelChanged:
        """Load what is missing of a model's components, one after the other; all, or none."""
        async with self.lock:
            started, before = self._clock(), await self._gauge.used_bytes()
            self._changing()
            error: AtelierError | None = None
            from_host, came = False, tuple[str, ...]()
            card = self._catalog.get(model)
            if card is None:
                error = unknown(model)
            else:
                try:
                    came = await self._missing(card)
                    from_host = self._files is not None and await self._files.in_memory(came)
                    await self._bring(card, came)
                except ExecutionError as failure:
                    error, came = failure, ()
            self.resident = self.resident - {model} if error else self.resident | {model}
            self.changes += 1
            return await self._changed(
                ("model loaded", "model did not load"),
                model,
                started,
                before,
                error,
                came,
                from_host_memory=from_host,
            )

    async def unload(self, model: str) -> ModelChanged:
        """Unload the components that no other resident uses, and see them gone."""
        async with self.lock:
            started, before = self._clock(), await self._gauge.used_bytes()
            self._changing()
            went = tuple[str, ...]()
            card = self._catalog.get(model)
            if card is None:
                error: AtelierError | None = unknown(model)
            elif self._in_use(model):
                error = AtelierError("the model is in use", reason="MODEL_IN_USE")
                error.code = "FAILED_PRECONDITION"
            else:
                went = self._own(card)
                error = await self._take_away(went)
            if error is None:
                self.resident -= {model}
            self.changes += 1
            words = "model unloaded", "model did not unload"
            return await self._changed(words, model, started, before, error, went)

    async def borrow(self, card: ModelCard, use: Callable[[], Awaitable[None]]) -> None:
        """Use a model, which is loaded for this and unloaded after it where it is not here.

        Raises:
            ExecutionError: it cannot be loaded, used or unloaded.
        """
        async with self.lock:
            brought = await self._missing(card)
            self._changing()
            left: AtelierError | None = None
            try:
                await self._bring(card, brought)
                await use()
            finally:
                left = await self._take_away(brought)
                self.changes += 1
            if isinstance(left, ExecutionError):
                raise left

    async def _missing(self, card: ModelCard) -> tuple[str, ...]:
        """Its components that are not there. Raises ExecutionError."""
        there = await self._triton.ready()
        names = dict.fromkeys(card.components.triton_models)
        return tuple(name for name in names if name not in there)

    async def _bring(self, card: ModelCard, triton_models: Sequence[str]) -> None:
        """Load these of its components; no half of a model keeps memory. Raises ExecutionError."""
        try:
            for name in triton_models:
                await self._triton.load(card, name)
        except ExecutionError:
            await self._take_away(triton_models)
            raise

    async def _take_away(self, triton_models: Sequence[str]) -> AtelierError | None:
        """Unload these, the last loaded first; why they are not gone, if they are not."""
        try:
            for name in reversed(triton_models):
                await self._triton.unload(name)
            give_up = self._clock() + UNLOAD_WAIT_SECONDS
            while not (await self._triton.resident()).isdisjoint(triton_models):
                if self._clock() > give_up:
                    return ExecutionError(
                        "Triton did not let go of the model", retryable=True, reason="UNLOAD_STUCK"
                    )
                await asyncio.sleep(UNLOAD_POLL_SECONDS)
        except ExecutionError as error:
            return error
        return None

    def _own(self, card: ModelCard) -> tuple[str, ...]:
        """Its components that no other resident shares."""
        others = [self._catalog.cards[name] for name in self.resident - {card.name}]
        shared = {name for other in others for name in other.components.triton_models}
        names = dict.fromkeys(card.components.triton_models)
        return tuple(name for name in names if name not in shared)

    def _changing(self) -> None:
        self.changes += 1
        self.quiet_bytes = 0

    async def _changed(
        self,
        words: tuple[str, str],
        model: str,
        started: float,
        before: int,
        error: AtelierError | None,
        triton_models: tuple[str, ...],
        *,
        from_host_memory: bool = False,
    ) -> ModelChanged:
        seconds = self._clock() - started
        after = self.quiet_bytes = await self._gauge.used_bytes()
        measured = after - before if before and after and not error else None
        log.info(words[error is not None], device=self._device_id, model=model,
                 seconds=round(seconds, 3), bytes=measured, from_host_memory=from_host_memory,
                 reason=error.reason if error else None)  # fmt: skip
        return ModelChanged(
            self._device_id, model, model in self.resident, seconds, error,
            measured, from_host_memory, triton_models,
        )  # fmt: skip


def unknown(model: str) -> AtelierError:
    """There is no such model here."""
    error = AtelierError(f"this agent has no model {model[:64]}", reason="MODEL_UNKNOWN")
    error.code = "NOT_FOUND"
    return error
