"""What a component costs on this machine: `python -m exporters.measure MODEL SIDE ROWS...`.

Each component is measured in a process of its own, because memory and load time are only clean in
a fresh one. That is also how the embedded Triton runs it: one process for each model.

- seconds of a run: CPU seconds of the one thread that runs, median of several. Not the wall's: on a
  busy machine those measure the neighbours.
- bytes a row: growth of the resident set from the first run of the fewest rows to the first run of
  the most, over the rows between. ONNX Runtime's arena never gives memory back, so the growth is
  the peak. It holds inputs and outputs too.
- seconds to load: the wall's, from starting the process to an open model.

No torch here: its import alone would outweigh everything measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

ROWS = (1, 2, 4, 8, 16)
RUNS = 7  # of which the median counts; after one that warms up
THREADS = 1  # as the embedded backend's default


@dataclass(frozen=True)
class Cost:
    """Measured costs of one component.

    Attributes:
        seconds: (rows, seconds of one run), by rows.
    """

    load_seconds: float
    bytes_per_row: int
    seconds: tuple[tuple[int, float], ...]


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a model on the CPU, as the embedded Triton's backend does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(path: Path, side: int, rows: Sequence[int] = ROWS) -> Cost:
    """Measure a model in a fresh process.

    Args:
        side: length of every free axis but the batch's, in latents.

    Raises:
        subprocess.CalledProcessError: it did not run.
    """
    command = [sys.executable, "-m", "exporters.measure", str(path), str(side), *map(str, rows)]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # written when the model is open
        load_seconds = time.monotonic() - started
        text = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    figures = json.loads(text)
    seconds = tuple((int(n), float(s)) for n, s in figures["seconds"])
    return Cost(load_seconds, int(figures["bytes_per_row"]), seconds)


def _main() -> None:
    path, side, *rows = sys.argv[1:]
    session = open_session(Path(path))
    print("open", flush=True)
    counts = [int(n) for n in rows]
    feeds = {n: _feed(session, n, int(side)) for n in counts}
    resident = []
    for n in (counts[0], counts[-1]):
        session.run(None, feeds[n])
        resident.append(_resident_bytes())
    bytes_per_row = max(0, resident[1] - resident[0]) // max(1, counts[-1] - counts[0])
    seconds = [(n, _seconds(session, feeds[n])) for n in counts]
    print(json.dumps({"bytes_per_row": bytes_per_row, "seconds": seconds}))


def _seconds(session: onnxruntime.InferenceSession, feed: dict[str, NDArray[Any]]) -> float:
    session.run(None, feed)
    spent = []
    for _ in range(RUNS):
        started = time.thread_time()
        session.run(None, feed)
        spent.append(time.thread_time() - started)
    return statistics.median(spent)


def _feed(session: onnxruntime.InferenceSession, rows: int, side: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {}
    for tensor in session.get_inputs():
        shape = (rows, *(n if isinstance(n, int) else side for n in tensor.shape[1:]))
        integer = tensor.type == "tensor(int64)"
        feed[tensor.name] = (
            np.zeros(shape, np.int64) if integer else rng.standard_normal(shape, np.float32)
        )
    return feed


def _resident_bytes() -> int:
    """The process's resident set now (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


if __name__ == "__main__":
    _main()
