"""Words with spaces and dollars survive make and the shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW = r'show: ; @printf "%s|%s" "$$PROMPT" "$$STATE_DIR"'

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def output(*command: str, **environment: str) -> str:
    # The tests themselves run under make: what it tells its children is not for these.
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        command, cwd=ROOT, env={**outer, **environment}, check=True, capture_output=True, text=True
    ).stdout


@needs_make
def test_a_prompt_may_cost_five_dollars() -> None:
    words = {"PROMPT": "a $5 note, $(HOME)", "STATE_DIR": "my $state"}
    given = [f"{name}={value}" for name, value in words.items()]
    shown = "|".join(words.values())
    assert output("make", "--eval", SHOW, "show", *given) == shown
    assert output("make", "--eval", SHOW, "show", **words) == shown


@needs_make
@pytest.mark.parametrize(("once", "option"), [("", "--prompt"), ("0", "--prompt"), ("1", "--once")])
def test_once_is_off_when_it_says_so(once: str, option: str) -> None:
    assert f'{option} "$PROMPT"' in output("make", "--dry-run", "run", f"ONCE={once}")


def test_a_python_under_a_path_with_a_space_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "my dir"
    folder.mkdir()
    python = folder / "python"
    python.symlink_to(Path(sys.executable).resolve())
    assert output("scripts/find_python.sh", PYTHON=str(python)).strip() == str(python)
