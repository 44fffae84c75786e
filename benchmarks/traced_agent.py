"""The agent, with Python's own account of its memory: bench_mixed.py runs it in the agent's place.

Every second a line of JSON goes to ATELIER_TRACED_TO: bytes that Python objects take, and bytes of
the process that are in memory.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import tracemalloc
from pathlib import Path

from agent.__main__ import main

PERIOD_SECONDS = 1.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _tell(path: Path) -> None:
    with path.open("a", buffering=1) as file:
        while True:
            time.sleep(PERIOD_SECONDS)
            gc.collect()  # what is only waiting to be collected is no leak
            traced, _ = tracemalloc.get_traced_memory()
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
            file.write(json.dumps({"at": time.time(), "python": traced, "rss": resident}) + "\n")


if __name__ == "__main__":
    tracemalloc.start(1)  # one frame: where from is not asked
    told = Path(os.environ["ATELIER_TRACED_TO"])
    threading.Thread(target=_tell, args=(told,), daemon=True).start()
    main()
