"""What the driver tells of a GPU, where there is a driver."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml


@dataclass(frozen=True)
class Measure:
    """Bytes of memory in use, and per cent of the last period in which a kernel ran."""

    used_bytes: int
    utilisation_percent: int


NOTHING = Measure(0, 0)


class Nvml:
    """The driver's library, where there is one."""

    def __init__(self) -> None:
        self.available = False

    def start(self) -> None:
        """Look for a driver; having none is fine."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        self.available = True

    def stop(self) -> None:
        """Let go of the driver."""
        if self.available:
            pynvml.nvmlShutdown()
            self.available = False

    def sample(self, gpu_index: int) -> Measure:
        """One GPU by its index; NOTHING where the driver does not say."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(gpu_index)
            used = pynvml.nvmlDeviceGetMemoryInfo(handle).used
            busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        except pynvml.NVMLError:
            return NOTHING
        return Measure(int(used), int(busy))
