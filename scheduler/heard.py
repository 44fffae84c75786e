"""What passes by, for whoever counts it: told where the loops do it, beside the journal."""

from __future__ import annotations

from atelier.generation import Generation
from scheduler.recent import Noted


class Heard:
    """Counts nothing. Who counts overrides all of it, and neither waits nor raises."""

    def stood(self, row: Generation) -> None:
        """The database agreed: it waits, runs or has ended. May be told twice."""

    def progressed(self, row: Generation, step: int, step_seconds: float) -> None:
        """An attempt's agent told how far it is, and what its latest batch took."""

    def requeued(self, reason: str) -> None:
        """An attempt ended, and will be tried again."""

    def decided(self, decision: Noted) -> None:
        """The core decided."""

    def loaded(
        self, device_id: str, model: str, seconds: float, *, from_host: bool, failed: bool
    ) -> None:
        """A load ended."""

    def unloaded(self, device_id: str, model: str) -> None:
        """A model went."""
