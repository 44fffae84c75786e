"""Stable Diffusion 1.5 and XL in their full size with random weights, by the whole command.

Their time and memory go to benchmarks/results/export-full.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exporters.repository import problems

pytestmark = [pytest.mark.full, pytest.mark.timeout(5400)]

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "export-full.json"
GIB = 2**30


@dataclass(frozen=True)
class Model:
    """One of tests.support.full_size.

    Attributes:
        weight_bytes: of the denoiser at least, in FP16.
        disk_bytes, memory_bytes: what the command was measured to need, and some room.
    """

    name: str
    what: str
    weight_bytes: float
    disk_bytes: int
    memory_bytes: int


MODELS = (
    Model("sd15", "Stable Diffusion 1.5's structure", 1.7e9, 16 * GIB, 10 * GIB),
    Model("sdxl", "Stable Diffusion XL's structure", 5.1e9, 40 * GIB, 20 * GIB),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_model_of_full_size_goes_through_onnx_and_parity(model: Model, tmp_path: Path) -> None:
    require_room(model, tmp_path)
    name, repository, checkpoint = model.name, tmp_path / "triton_repo", tmp_path / "checkpoint"
    build = f"from tests.support.full_size import {name}; {name}({str(checkpoint)!r})"
    subprocess.run([sys.executable, "-c", build], check=True)
    words = [
        "export", str(checkpoint), "--name", name, "--repository", str(repository),
        "--precision", "fp16", "--shapes", "256x256", "--max-batch", "8", "--parts", "2",
    ]  # fmt: skip

    spent = run([sys.executable, "-m", "exporters", *words])

    card = tomllib.loads((repository / f"{name}.toml").read_text())
    assert problems(repository) == []
    assert card["weights"][f"{name}__denoiser"] > model.weight_bytes
    assert card["parity"]["pictures"]["psnr"] >= 28
    assert sum(card["parts"].values()) >= card["weights"][f"{name}__denoiser"] * 0.99
    report = {
        "what": f"{model.what}, random weights, FP16, two parts",
        **spent,
        "files_bytes": {
            folder.name: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            for folder in sorted(repository.iterdir())
            if folder.is_dir()
        },
        **{name: card[name] for name in ("weights", "parts", "parity", "profiles", "measured")},
        "tools": card["source"]["tools"],
        "cores": os.cpu_count(),
    }
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    RESULT.write_text(json.dumps({**known, name: report}, indent=2) + "\n")
    shutil.rmtree(tmp_path)  # gigabytes that pytest would keep


def require_room(model: Model, folder: Path) -> None:
    """Skips where the machine has too little, and says what of."""
    disk = shutil.disk_usage(folder).free
    memory = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    for kind, needed, free in (
        ("disk", model.disk_bytes, disk),
        ("memory", model.memory_bytes, memory),
    ):
        if free < needed:
            pytest.skip(
                f"{model.name} needs {needed / GIB:.0f} GiB of {kind}, {free / GIB:.1f} are free"
            )


def run(command: list[str]) -> dict[str, Any]:
    """Run a command; returns what it spent."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)  # of this command alone, not of those before it
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"it ended with {process.returncode}"
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
        "wall_seconds": round(time.monotonic() - started),
        "peak_resident_bytes": usage.ru_maxrss * 1024,  # of its largest process
    }
