"""Stable Diffusion 1.5 in its full size with random weights, by the whole command.

Its time and memory go to benchmarks/results/export-full.json.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from exporters.repository import problems

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "export-full.json"
NEEDED_BYTES = 16 * 2**30


def test_stable_diffusion_1_5_through_onnx_and_parity(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < NEEDED_BYTES:
        pytest.skip("needs 16 GiB of disk")
    repository, checkpoint = tmp_path / "triton_repo", tmp_path / "checkpoint"
    build = f"from tests.support.full_size import sd15; sd15({str(checkpoint)!r})"
    subprocess.run([sys.executable, "-c", build], check=True)
    words = [
        "export", str(checkpoint), "--name", "sd15", "--repository", str(repository),
        "--precision", "fp16", "--shapes", "256x256", "--max-batch", "8", "--parts", "2",
    ]  # fmt: skip
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "exporters", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    card = tomllib.loads((repository / "sd15.toml").read_text())
    assert problems(repository) == []
    assert card["weights"]["sd15__denoiser"] > 1.7e9
    assert card["parity"]["pictures"]["psnr"] >= 28
    assert sum(card["parts"].values()) >= card["weights"]["sd15__denoiser"] * 0.99
    report = {
        "what": "Stable Diffusion 1.5 structure, random weights, FP16, two parts",
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
        "wall_seconds": round(time.monotonic() - started),
        "peak_resident_bytes": after.ru_maxrss * 1024,  # of the largest process so far
        "files_bytes": {
            folder.name: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            for folder in sorted(repository.iterdir())
            if folder.is_dir()
        },
        **{name: card[name] for name in ("weights", "parts", "parity", "profiles", "measured")},
        "tools": card["source"]["tools"],
        "cores": os.cpu_count(),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
