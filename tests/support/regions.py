"""What is left of shared memory."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path

from agent.buffers import SHARED_MEMORY


def left_behind(names: Iterable[str]) -> list[str]:
    """Which of these regions are a file in /dev/shm, or mapped by this process."""
    gc.collect()
    mapped = Path("/proc/self/maps").read_text()
    return [name for name in names if (SHARED_MEMORY / name).exists() or name in mapped]
