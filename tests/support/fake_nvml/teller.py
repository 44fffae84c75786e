"""A process that finds the driver as any does, and tells what the agent's gauges say of it.

    python -m tests.support.fake_nvml.teller PATIENCE_SECONDS GPU...

Each line of standard input is "sample" or "used"; each line of output has every GPU's answer, as
JSON, in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict

from agent import gpu
from agent.nvml import Nvml
from atelier.telemetry import configure_logging


async def main(patience: str, *names: str) -> None:
    gpu.PATIENCE_SECONDS = float(patience)
    nvml = Nvml(time.monotonic)
    gauges = [gpu.Gauge(nvml.gpu(name), name) for name in names]
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip() == "used":
            answers: list[object] = list(await asyncio.gather(*(g.used_bytes() for g in gauges)))
        else:
            answers = [asdict(m) for m in await asyncio.gather(*(g.sample() for g in gauges))]
        print(json.dumps(answers), flush=True)
    for gauge in gauges:
        gauge.close()
    nvml.close()
    os._exit(0)  # whatever a driver that hangs holds


configure_logging("teller", "info")  # to standard error
asyncio.run(main(*sys.argv[1:]))
