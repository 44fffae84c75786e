"""The live scheduler, simulated: promises hold under seeded faults, and a seed says all.

In processes of their own: the order of Python's sets of strings is a process's (`__main__.py`).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCHEDULES = 40  # about 10 s; `make simulate-faults` runs a thousand
# Each kind of fault must have been met, else nothing was shown about it.
FAULTS = (
    "agent crashes", "agent freezes", "agent stops", "agent twice", "at once", "clock steps",
    "database away", "database's clock steps", "device comes or goes", "drain",
    "fails by chance", "gpu lost", "messages are slow", "out of memory", "pin",
    "scheduler crashes", "scheduler cut off", "scheduler freezes", "scheduler stops",
    "scheduler twice", "store: fails", "store: hangs", "store: hangs, writes",
    "store: hangs, writes late", "store: wrote, told failure", "stream cut", "triton crashes",
)  # fmt: skip


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulated", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


def test_promises_hold_under_every_kind_of_fault() -> None:
    ended = simulate("--schedules", str(SCHEDULES), "--seed", "1", "--first")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {line.split(maxsplit=1)[1] for line in ended.stdout.splitlines()[1:]} == {*FAULTS}
    refused = re.search(r"(\d+) writes of the deposed refused", ended.stdout)
    assert refused and int(refused[1]) > 0


def test_a_seed_says_all() -> None:
    first, second = (simulate("--schedules", "2", "--seed", "7", "--digests") for _ in range(2))
    digests = [line for line in first.stdout.splitlines() if re.match(r"\d+ \w{16} ", line)]
    assert len(set(digests)) == 2
    assert digests == second.stdout.splitlines()[:2]
