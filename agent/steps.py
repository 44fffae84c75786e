"""What denoiser calls take, and how many rows they have, as metrics."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from atelier.instruments import STEP_DURATION, STEP_ROWS
from atelier.labels import Capped, rows_of
from atelier.metrics import histogram

MOST_MODELS, MOST_SHAPES = 30, 10


class Steps:
    """All devices' of an agent together."""

    def __init__(self, meter: Meter) -> None:
        self._seconds = histogram(meter, STEP_DURATION)
        self._rows = histogram(meter, STEP_ROWS)
        self._model, self._shape = Capped(MOST_MODELS), Capped(MOST_SHAPES)

    def record(self, model: str, shape: str, rows: int, seconds: float) -> None:
        """One call went well."""
        model = self._model(model)
        labels = {"model": model, "shape": self._shape(shape), "rows": rows_of(rows)}
        self._seconds.record(seconds, labels)
        self._rows.record(rows, {"model": model})
