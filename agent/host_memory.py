"""Holds the files of recently used models in the node's memory, so that loading them reads no disk.

The scheduler says which models, the most important first; what does not fit into the budget is left
out. One thread reads, one model after another, and drops what it reads as soon as it is not wanted
any more. A file that models share is held, and counted, once.

What is told is what was measured: a model counts when every byte of its files is there. A file
that could not be locked may be given up by the kernel at any time; it is looked at again every
LOOK_SECONDS, and read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from pathlib import Path

import structlog

from agent.pages import Mapping, all_in_memory, allow_locks
from agent.work import HostFacts

log = structlog.get_logger()

LOOK_SECONDS = 15.0


class ModelFiles:
    """Where the files of Triton models lie."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository

    def of(self, triton_models: Sequence[str]) -> list[Path]:
        """All files of these models that hold anything. Raises OSError where we may not look, or
        what was there is being replaced."""
        return sorted(
            path
            for name in dict.fromkeys(triton_models)
            for path in (self._repository / name).rglob("*")
            if path.is_file() and path.stat().st_size
        )

    async def in_memory(self, triton_models: Sequence[str]) -> bool:
        """Whether loading them would read nothing from disk; False where that cannot be known."""
        try:
            return await asyncio.to_thread(lambda: all_in_memory(self.of(triton_models)))
        except OSError:
            return False


class HostMemory:
    """What is held, and why. `run` must be running for anything to change."""

    def __init__(
        self, capacity_bytes: int, files: ModelFiles, components: Dict[str, Sequence[str]]
    ) -> None:
        """`components`: the Triton models of each model."""
        self._capacity = capacity_bytes
        self._files = files
        self._components = components
        self._wanted: tuple[str, ...] = ()
        self._held: dict[Path, Mapping] = {}
        self._changed = asyncio.Event()
        self._models: tuple[str, ...] = ()
        self._resident_bytes = 0

    def keep(self, models: Sequence[str]) -> None:
        """Hold these and no others."""
        self._wanted = tuple(dict.fromkeys(models))
        self._changed.set()

    def facts(self) -> HostFacts:
        """What there is, by the latest look."""
        return HostFacts(self._capacity, self._models, self._resident_bytes)

    async def run(self) -> None:
        """Do what is wanted, and look after it, until cancelled: then let go of everything."""
        allow_locks()
        settling: asyncio.Future[None] | None = None
        try:
            while True:
                self._changed.clear()
                settling = asyncio.ensure_future(asyncio.to_thread(self._settle, self._wanted))
                await asyncio.shield(settling)
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            self._wanted = ()  # a thread that still reads stops
            if settling:
                await asyncio.wait({settling})
            for mapping in self._held.values():
                mapping.close()
            self._held.clear()

    def _settle(self, wanted: tuple[str, ...]) -> None:
        """In a thread: let go of what is not wanted, then hold what is, model by model."""
        plan = self._plan(wanted)
        keep = {path for paths in plan.values() for path in paths}
        for path, mapping in list(self._held.items()):
            if path not in keep or not mapping.is_current:
                self._held.pop(path).close()
        self._look(plan)
        for model, paths in plan.items():
            if self._wanted != wanted:
                return
            try:
                for path in paths:
                    self._hold(path, wanted)
            except (OSError, ValueError) as error:  # gone, or empty by now
                log.warning("not held in host memory", model=model, reason=str(error))
            self._look(plan)

    def _plan(self, wanted: tuple[str, ...]) -> dict[str, list[Path]]:
        """The files of each model that fits beside those before it."""
        plan: dict[str, list[Path]] = {}
        counted: set[Path] = set()
        room = self._capacity
        for model in wanted:
            try:
                paths = self._files.of(self._components.get(model, ()))
                new = set(paths) - counted
                size = sum(path.stat().st_size for path in new)
            except OSError as error:
                log.warning("not held in host memory", model=model, reason=str(error))
                continue
            if paths and size <= room:
                plan[model] = paths
                counted |= new
                room -= size
        return plan

    def _hold(self, path: Path, wanted: tuple[str, ...]) -> None:
        """Have a file read and locked, unless it is there already."""
        if path not in self._held:
            self._held[path] = Mapping(path)
        mapping = self._held[path]
        if mapping.locked or (mapping.resident_bytes() == mapping.bytes and mapping.lock()):
            return
        offset = 0
        while offset < mapping.bytes and self._wanted == wanted:
            after = mapping.read(offset)
            if after == offset:
                return  # it became shorter: the next look finds another file
            offset = after
        mapping.lock()

    def _look(self, plan: dict[str, list[Path]]) -> None:
        """Measure what is there."""
        there = {path: mapping.resident_bytes() for path, mapping in self._held.items()}
        full = {path for path, size in there.items() if size == self._held[path].bytes}
        models = tuple(model for model, paths in plan.items() if full.issuperset(paths))
        if models != self._models:
            log.info("in host memory", models=list(models), bytes=sum(there.values()))
        self._models, self._resident_bytes = models, sum(there.values())
