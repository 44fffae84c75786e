"""What a training run says about itself: a line now and then, and its CPU seconds at the end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Report = Callable[[str], None]


@dataclass(slots=True)
class Progress:
    """Counts steps and tells the mean loss since the last line, CPU seconds and time to go."""

    stage: str
    steps: int
    report: Report
    every: int = 50
    first_step: int = 0
    _losses: list[float] = field(default_factory=list)
    _cpu: float = field(default_factory=time.process_time)
    _wall: float = field(default_factory=time.monotonic)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of this process since the stage began."""
        return time.process_time() - self._cpu

    def step(self, number: int, loss: float) -> None:
        """Record step `number`, counted from 1."""
        self._losses.append(loss)
        if number % self.every and number != self.steps:
            return
        mean = sum(self._losses) / len(self._losses)
        self._losses.clear()
        a_step = (time.monotonic() - self._wall) / max(1, number - self.first_step)
        left = a_step * (self.steps - number)
        self.report(
            f"{self.stage} {number}/{self.steps} loss {mean:.4f} "
            f"cpu {self.cpu_seconds:.0f} s, {left:.0f} s to go"
        )
