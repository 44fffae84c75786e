"""Failpoints: what is armed happens, when it should; what is not armed does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atelier import failpoints
from atelier.failpoints import POINTS, VARIABLE, FailpointError, failpoint, parse

ROOT = Path(__file__).parents[3]


def passed(spec: str, times: int) -> list[bool]:
    """Whether the point raised, each time that it was passed."""
    [armed] = parse(spec).values()
    raised = []
    for _ in range(times):
        try:
            armed.pass_by(FailpointError)
            raised.append(False)
        except FailpointError:
            raised.append(True)
    return raised


def test_nothing_is_armed_and_nothing_happens() -> None:
    for name in POINTS:
        failpoint(name)


def test_raises_what_the_point_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_ARMED", parse("put_done=raise"))
    with pytest.raises(ConnectionError):
        failpoint("put_done", ConnectionError)


def test_the_nth_time_only() -> None:
    assert passed("step_done=raise@3", 5) == [False, False, True, False, False]


def test_chance_is_the_seed_s() -> None:
    one, other = "statement_done=10%raise;seed=1", "statement_done=10%raise;seed=2"
    assert passed(one, 500) == passed(one, 500) != passed(other, 500)
    assert 20 <= sum(passed(one, 500)) <= 80


@pytest.mark.parametrize("number", ["exit", "stop"])
def test_ends_or_stops_its_process(number: str) -> None:
    script = "from atelier.failpoints import failpoint; failpoint('submit_committed'); print('on')"
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, VARIABLE: f"submit_committed={number}"},
        stdout=subprocess.PIPE,
    )
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    if number == "exit":
        child.returncode = -os.WTERMSIG(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        assert os.WSTOPSIG(status) == signal.SIGSTOP
        child.send_signal(signal.SIGCONT)
        assert child.communicate()[0] == b"on\n"
    if child.stdout:
        child.stdout.close()


@pytest.mark.parametrize(
    ("spec", "named"),
    [("no_such=exit", "no_such"), ("put_done=explode", "explode"), ("put_done=sleep()", "sleep")],
)
def test_what_is_written_wrong_is_named(spec: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse(spec)


def test_every_point_is_somewhere_and_every_somewhere_a_point() -> None:
    text = "".join(
        path.read_text()
        for room in ("atelier", "gateway", "scheduler", "agent", "webhooks")
        for path in (ROOT / room).glob("*.py")
    )
    assert set(re.findall(r'failpoint\("(\w+)"', text)) == set(POINTS)
