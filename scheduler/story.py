"""What is kept of each live generation for its trace, until it ends. Pure.

It hears the journal's moments, and what is no moment: each denoise step. In memory alone: after a
fail-over, what was before it is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from atelier.generation import Generation
from atelier.spans import Span
from scheduler.journal import Kind, Moment
from scheduler.spans import Load, Story, spans_of

MOST_STEPS = 128  # told one by one; of more, every second is forgotten
LOADS_KEPT = 200
MOST_COMING = 10_000  # that came and are not stored; those that are refused never will be


@dataclass
class _Loads:
    """Of all devices: those that ended lately, and those under way."""

    ended: deque[Load] = field(default_factory=lambda: deque(maxlen=LOADS_KEPT))
    began: dict[tuple[str, str], datetime] = field(default_factory=dict)

    def hear(self, moment: Moment) -> None:
        key = (moment.device, moment.model)
        if moment.kind is Kind.LOADING:
            self.began[key] = moment.time
        elif moment.kind is Kind.LOADED and (began := self.began.pop(key, None)):
            self.ended.append(Load(*key, began, moment.time, moment.failed))


class Stories:
    """Told as it happens; `tell` gets each generation that has ended, with its spans."""

    def __init__(
        self,
        wall: Callable[[], datetime],
        tell: Callable[[Generation, Sequence[Span]], object],
    ) -> None:
        self._wall = wall
        self._tell = tell
        self._since = wall()
        self._live: dict[str, Story] = {}
        self._coming: dict[str, datetime] = {}
        self._loads = _Loads()

    def __len__(self) -> int:
        return len(self._live)

    def reached(self, generation_id: str) -> None:
        """A gateway's message came with it."""
        if len(self._coming) >= MOST_COMING:
            del self._coming[next(iter(self._coming))]  # the first that came
        self._coming[generation_id] = self._wall()

    def hear(self, moment: Moment) -> None:
        """Something happened to a generation, or on a device."""
        if moment.kind in (Kind.QUEUED, Kind.RUNNING) and moment.generation not in self._live:
            reached = self._coming.pop(moment.generation, None)
            self._live[moment.generation] = Story(self._wall(), reached=reached)
        if story := self._live.get(moment.generation):
            story.moments.append(moment)
        else:
            self._loads.hear(moment)

    def stepped(self, generation_id: str, step: int, seconds: float) -> None:
        """A denoise step was done, in a call that took so long."""
        if story := self._live.get(generation_id):
            story.steps.append((self._wall(), step, seconds))
            if len(story.steps) > MOST_STEPS:
                del story.steps[1::2]

    def ended(self, row: Generation) -> None:
        """It is final: its spans are told, and it is forgotten."""
        if story := self._live.pop(row.id, None):
            story.earlier = row.create_time < self._since
            self._tell(row, spans_of(row, story, self._loads.ended))
