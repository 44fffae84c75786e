"""Live views: the progress of unfinished generations, and whoever watches them.

A watcher that reads slowly skips intermediate views (the latest wins), and states among them, but
never the last.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from atelier.generation import Generation, State
from atelier.v1 import generation_pb2 as pb
from scheduler.heard import Heard
from scheduler.journal import Journal


@dataclass(frozen=True)
class Progress:
    """How far an attempt is; `step_seconds` is that of its latest batch.

    preview: a JPEG of what it looked like after `preview_step` steps; empty where there is none.
    """

    phase: int = pb.PHASE_QUEUED
    step: int = 0
    total_steps: int = 0
    step_seconds: float = 0.0
    preview: bytes = b""
    preview_step: int = 0


@dataclass(frozen=True)
class View:
    """A generation with its progress; None where it runs not."""

    generation: Generation
    progress: Progress | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Where in its life it is; what comes later is greater. An attempt runs, then it waits
        again or has ended."""
        state = self.generation.state
        return self.generation.attempt, 0 if state is State.RUNNING else 2 if state.final else 1


class Watchers:
    """The latest view of each live generation, and an event to wake its watchers."""

    def __init__(self, journal: Journal | None = None) -> None:
        """`journal`: what is kept of all that passes here."""
        self.heard = Heard()  # who counts
        self._journal = journal
        self._views: dict[str, View] = {}
        self._changed: dict[str, set[asyncio.Event]] = defaultdict(set)
        self.waiting: Counter[str] = Counter()  # generations of each tenant
        self.unfinished: Counter[str] = Counter()  # with those that run
        self.ending = False  # whoever watches is to turn to the next scheduler

    def __len__(self) -> int:
        return len(self._views)

    def is_live(self, generation_id: str) -> bool:
        """Whether it has not ended, as far as is known here."""
        view = self._views.get(generation_id)
        return view is not None and not view.generation.state.final

    def ids(self) -> list[str]:
        """Of all that are known: those that have not ended, and those whose end is still told."""
        return [*self._views]

    def view(self, generation_id: str) -> View | None:
        return self._views.get(generation_id)

    def publish(self, generation: Generation, progress: Progress | None = None) -> None:
        """The generation changed. Final ones are told to who watches, then forgotten."""
        if before := self._views.get(generation.id):
            self._count(before.generation, -1)
        self._views[generation.id] = View(generation, progress)
        self._count(generation, 1)
        if self._journal:
            self._journal.stood(generation)
        self.heard.stood(generation)
        self._tell(generation.id)
        if generation.state.final and not self._changed.get(generation.id):
            del self._views[generation.id]

    def progress(self, generation_id: str, progress: Progress) -> None:
        """It came further; nothing where it is not live. A preview stays until the next, and one
        that comes late takes nothing back."""
        view = self._views.get(generation_id)
        if view:
            kept = view.progress
            if kept and not progress.preview:
                progress = replace(progress, preview=kept.preview, preview_step=kept.preview_step)
            elif kept and kept.step >= progress.step:
                preview, step = progress.preview, progress.preview_step
                progress = replace(kept, preview=preview, preview_step=step)
            self._views[generation_id] = replace(view, progress=progress)
            if self._journal:
                self._journal.progressed(view.generation, progress.phase)
            self.heard.progressed(view.generation, progress.step, progress.step_seconds)
            self._tell(generation_id)

    def subscribe(self, generation_id: str) -> asyncio.Event:
        """An event that is set at each change; give it back by `unsubscribe`."""
        event = asyncio.Event()
        self._changed[generation_id].add(event)
        return event

    def unsubscribe(self, generation_id: str, event: asyncio.Event) -> None:
        events = self._changed[generation_id]
        events.discard(event)
        if not events:
            del self._changed[generation_id]
            view = self._views.get(generation_id)
            if view and view.generation.state.final:
                del self._views[generation_id]

    def welcome(self) -> None:
        """They can come from now on."""
        self.ending = False

    def end_all(self) -> None:
        """Wake all watchers, to be let go."""
        self.ending = True
        for generation_id in self._changed:
            self._tell(generation_id)

    def _count(self, generation: Generation, by: int) -> None:
        tenant, state = generation.tenant, generation.state
        for counts, there in (
            (self.waiting, state is State.QUEUED),
            (self.unfinished, not state.final),
        ):
            if there:
                counts[tenant] += by
                if not counts[tenant]:
                    del counts[tenant]

    def _tell(self, generation_id: str) -> None:
        for event in self._changed.get(generation_id, ()):
            event.set()
