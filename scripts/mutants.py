"""`make mutants`: plant the faults of tests/mutants.toml one at a time; each must be found.

The tests of all mutants run once without any, for a test that fails by itself finds nothing. Then
each fault is planted in a copy of the tree, and its tests must fail there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 300  # for the tests of one mutant; one that hangs is found, too


def main(only: str = "") -> int:
    """The number of mutants that lived; `only`: a promise's name, such as P4."""
    listed = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]
    mutants = [mutant for mutant in listed if only in ("", mutant["promise"])]
    lived = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = _copy(Path(folder) / "tree")
        tests = sorted({test for mutant in mutants for test in mutant["tests"]})
        if not _passes(tree, tests, SECONDS * len(mutants)):
            _say("the tests fail without any mutant: mend that first")
            return 1
        for mutant in mutants:
            found = _is_found(tree, mutant)
            lived += not found
            _say(f"{mutant['promise']:4} {'found' if found else 'LIVED'}  {mutant['what']}")
    _say(f"{len(mutants) - lived} of {len(mutants)} found")
    return lived


def _copy(tree: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def _is_found(tree: Path, mutant: dict[str, Any]) -> bool:
    path = tree / mutant["file"]
    text = path.read_text()
    if text.count(mutant["old"]) != 1:
        raise SystemExit(f"{mutant['file']}: not exactly once there: {mutant['old']!r}")
    path.write_text(text.replace(mutant["old"], mutant["new"]))
    try:
        return not _passes(tree, mutant["tests"], SECONDS)
    finally:
        path.write_text(text)


def _passes(tree: Path, tests: list[str], seconds: float) -> bool:
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "--no-header",
        f"--basetemp={tree.parent / 'pytest'}", *tests,
    ]  # fmt: skip
    try:
        ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    if ended.returncode > 1:  # neither passed nor failed: a usage error, or nothing collected
        raise SystemExit(ended.stdout + ended.stderr)
    return ended.returncode == 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
