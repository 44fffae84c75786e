"""How the process ends where it cannot go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SETTINGS = {
    "ATELIER_SCHEDULER_ADDRESS": "127.0.0.1:1",
    "ATELIER_NODE": "node-1",
    "ATELIER_DEVICES": "[]",
    "ATELIER_S3_ENDPOINT": "127.0.0.1:1",
    "ATELIER_S3_ACCESS_KEY": "key",
    "ATELIER_S3_SECRET_KEY": "canary",
}
BREAKS = """
import threading, time
import agent.__main__ as main

async def serve(settings, stop, **_):
    threading.Thread(target=time.sleep, args=(60,)).start()  # an upload that hangs
    raise ValueError("what nobody thought of")

main.serve, main.THREAD_GRACE_SECONDS = serve, 0.1
main.main()
"""


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **SETTINGS, **settings}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip


def test_a_repository_that_is_wrong_is_a_sentence(tmp_path: Path) -> None:
    ended = run("-m", "agent", ATELIER_MODEL_REPOSITORY=str(tmp_path))
    assert ended.returncode == 1
    assert "agent cannot start" in ended.stderr
    assert "no model cards" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_nobody_thought_of_is_logged_whole_and_no_thread_is_waited_for() -> None:
    ended = run("-c", BREAKS)
    assert ended.returncode == 1
    assert "cannot start" not in ended.stderr
    assert "Traceback" in ended.stderr
    assert "what nobody thought of" in ended.stderr
    assert "canary" not in ended.stderr
