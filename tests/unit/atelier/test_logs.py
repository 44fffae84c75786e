"""A line of the log is one line, small, and without secrets, whatever a caller sends."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import logging, sys
import structlog
from atelier.telemetry import configure_logging
configure_logging("test", "info", sys.argv[1])
log = structlog.get_logger()
{body}
"""


def lines(body: str, form: str = "json") -> list[str]:
    """What a process writes to standard error."""
    program = PROGRAM.format(body=body)
    done = subprocess.run(
        [sys.executable, "-", form],
        input=program.encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stderr.decode().splitlines()


def told(body: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(body)]


HOSTILE = [
    "a\r\n{\"event\": \"forged\"}",
    "\x1b[2J\x1b[31mred\x07",
    "\x9b2J",
    "back\x08\x08over",
    "\u2028line\u202eeman",
    "x" * 2**20,
    "\0",
]  # fmt: skip


@pytest.fixture(scope="module", params=["json", "console"])
def hostile_lines(request: pytest.FixtureRequest) -> list[str]:
    body = f"""
for text in {HOSTILE!r}:
    log.info(text, value=text, listed=[text, {{"deep": text}}], **{{text[:40]: 1}})
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("broke")
    logging.getLogger("library").warning("it says %s", text)
"""
    return lines(body, request.param)


def test_nothing_that_a_caller_sends_makes_a_line_or_moves_a_cursor(
    hostile_lines: list[str],
) -> None:
    text = "\n".join(hostile_lines)
    for control in "\x1b\x07\x08\x9b\0\r\u2028\u202e":
        assert control not in text
    for line in hostile_lines:
        assert not line.startswith('{"event": "forged"')
        assert len(line) < 20_000
        assert line.startswith(("{", "20", "  | ")), line  # ours, or a traceback's


def test_json_is_one_object_a_line_with_what_was_said() -> None:
    first, second = told("log.info('said', n=1); logging.getLogger('lib').error('so %s', 'what')")
    assert (first["event"], first["n"], first["level"]) == ("said", 1, "info")
    assert first["process"] == second["process"] == "test"
    assert (second["event"], second["logger"], second["level"]) == ("so what", "lib", "error")
    assert first["timestamp"].endswith("Z")


def test_secrets_are_taken_out() -> None:
    words = {
        "url": "http://store/b/k?X-Amz-Credential=AKIA1&X-Amz-Signature=deadbeef&x=1",
        "error": "connection to postgresql://user:hunter2@db:5432/x failed",
        "header": "Bearer atk_0123456789abc_secretsecretsecret",
        "conninfo": "host=db password=hunter2 user=x",
        "authorization": "anything",
        "prompt": "a private wish",
        "triton_admin_key": "k9",
        "nested": {"secret_key": "k8", "fine": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
    }
    (line,) = lines(f"log.info('said', **{words!r})")
    for secret in ("deadbeef", "AKIA1", "hunter2", "secretsecret", "anything", "private", "k9",
                   "k8", "MfKQ9r8"):  # fmt: skip
        assert secret not in line
    assert json.loads(line)["url"].endswith("&x=1")
    (line,) = lines("logging.getLogger('urllib3').error('http://u:hunter2@h/')")
    assert "hunter2" not in line


def test_a_pipe_is_no_terminal() -> None:
    (line,) = lines("log.info('said')", "auto")
    assert json.loads(line)["event"] == "said"
    (line,) = lines("log.info('said', n=1)", "console")
    assert "said" in line
    assert not line.startswith("{")


def test_levels_are_python_s() -> None:
    assert logging.getLevelNamesMapping()["INFO"] == logging.INFO
    assert not told("log.debug('too small')")


def test_a_line_that_cannot_be_written_ends_nothing() -> None:
    body = 'for _ in range(1000): log.info("x"); logging.getLogger("lib").warning("y")\nprint("on")'
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-", "json"],
            input=PROGRAM.format(body=body).encode(),
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, b"on\n")
