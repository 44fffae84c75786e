"""Compiles the fake driver, for the loader to find as the real one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")


def compile_driver(folder: Path) -> dict[str, str]:
    """Put libnvidia-ml.so.1 into `folder`; what a process's environment needs to find it.

    Skips the test where there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc): the fake driver cannot be built")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1",
         "-o", str(library), str(SOURCE)],
        check=True,
    )  # fmt: skip
    return {"LD_LIBRARY_PATH": str(folder)}
