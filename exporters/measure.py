"""What a component costs on this machine, in a process of its own.

Memory and load time are only clean in a fresh process. That is also how the embedded Triton runs a
model: one process for each.

- seconds of a run: CPU seconds of the one thread that runs, median of several. Not the wall's: on a
  busy machine those measure the neighbours. A large model is given fewer runs and fewer rows.
- bytes a row: growth of the resident set from the first run of the fewest rows to the first run of
  the most, over the rows between. ONNX Runtime's arena never gives memory back, so the growth is
  the peak. It holds inputs and outputs too.
- resident bytes: growth of the resident set by opening the model.
- seconds to load: the wall's, from starting the process to an open model.

No torch here: its import alone would outweigh everything measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

ROWS = (1, 2, 4, 8, 16)
RUNS = 7  # of which the median counts; after one that warms up
SECONDS = 20.0  # of all runs of a model at one shape; the first run is made whatever it takes
THREADS = 1  # as the embedded backend's default


@dataclass(frozen=True)
class Shape:
    """What is made of the free axes.

    Attributes:
        height, width: of the latents.
        downscale: pixels to one latent; the sides of uint8 inputs are so much larger.
    """

    height: int
    width: int
    downscale: int


@dataclass(frozen=True)
class Cost:
    """Measured costs of one component.

    Attributes:
        seconds: (rows, seconds of one run), by rows.
    """

    load_seconds: float
    resident_bytes: int
    bytes_per_row: int
    seconds: tuple[tuple[int, float], ...]


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a model on the CPU, as the embedded Triton's backend does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(path: Path, shape: Shape, rows: tuple[int, ...] = ROWS) -> Cost:
    """Measure a model in a fresh process.

    Raises:
        subprocess.CalledProcessError: it did not run.
    """
    words = json.dumps({"path": str(path), "shape": asdict(shape), "rows": rows})
    command = [sys.executable, "-m", "exporters.measure", words]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # written when the model is open
        load_seconds = time.monotonic() - started
        text = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    figures = json.loads(text)
    seconds = tuple((int(n), float(s)) for n, s in figures.pop("seconds"))
    return Cost(load_seconds=load_seconds, seconds=seconds, **figures)


def in_words(cost: Cost) -> str:
    """A cost on one line."""
    runs = ", ".join(f"{rows}: {seconds * 1e3:.1f}" for rows, seconds in cost.seconds)
    return (
        f"load {cost.load_seconds:.2f} s, {cost.resident_bytes / 1e6:.1f} MB and"
        f" {cost.bytes_per_row / 1e6:.2f} MB a row, ms by rows {runs}"
    )


def _main() -> None:
    asked = json.loads(sys.argv[1])
    shape = Shape(**asked["shape"])
    before = _resident_bytes()
    session = open_session(Path(asked["path"]))
    resident_bytes = max(0, _resident_bytes() - before)
    print("open", flush=True)
    left = SECONDS
    seconds: list[tuple[int, float]] = []
    peaks: list[tuple[int, int]] = []  # (rows, resident set after their first run)
    for rows in asked["rows"]:
        if seconds and seconds[-1][1] * rows / seconds[-1][0] * 2 > left:
            break  # not even a warm-up and one run
        feed = _feed(session, rows, shape)
        spent = [_run(session, feed)]
        peaks.append((rows, _resident_bytes()))
        while len(spent) <= RUNS and sum(spent) + spent[-1] < left:
            spent.append(_run(session, feed))
        seconds.append((rows, statistics.median(spent[1:] or spent)))
        left -= sum(spent)
    (fewest, low), (most, high) = peaks[0], peaks[-1]
    alone = max(0, low - before - resident_bytes)
    bytes_per_row = max(0, high - low) // (most - fewest) if most > fewest else alone
    figures = {"resident_bytes": resident_bytes, "bytes_per_row": bytes_per_row}
    print(json.dumps(figures | {"seconds": seconds}))


def _run(session: onnxruntime.InferenceSession, feed: dict[str, NDArray[Any]]) -> float:
    started = time.thread_time()
    session.run(None, feed)
    return time.thread_time() - started


def _feed(
    session: onnxruntime.InferenceSession, rows: int, shape: Shape
) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {}
    for tensor in session.get_inputs():
        pixels = tensor.type == "tensor(uint8)"
        scale = shape.downscale if pixels else 1
        sides = iter((shape.height * scale, shape.width * scale))
        dims = (rows, *(n if isinstance(n, int) else next(sides) for n in tensor.shape[1:]))
        if tensor.type == "tensor(int64)":
            feed[tensor.name] = np.zeros(dims, np.int64)
        elif pixels:
            feed[tensor.name] = rng.integers(0, 256, dims, np.uint8)
        else:
            feed[tensor.name] = rng.standard_normal(dims, np.float32)
    return feed


def _resident_bytes() -> int:
    """The process's resident set now (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


if __name__ == "__main__":
    _main()
