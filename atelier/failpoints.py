"""Named points in the code at which tests let a process end, stand, wait or fail.

    ATELIER_FAILPOINTS="submit_committed=exit@3;before_upload=sleep(2);statement_done=1%raise;seed=7"

`exit` is SIGKILL to itself: no goodbye. `stop` is SIGSTOP, until somebody sends SIGCONT. `sleep(S)`
stands for S seconds with all that the thread would do (the event loop, mostly). `raise` raises what
the point says. `@N`: at the Nth time only; `P%`: by chance, from `seed`. Read once, when the
process starts. Without the variable a point costs the look-up of a name in an empty dict.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

VARIABLE = "ATELIER_FAILPOINTS"

# Where, and what has and has not happened then.
POINTS: Mapping[str, str] = {
    "submit_before_commit": "a group of submits is about to be stored",
    "submit_committed": "it is stored, and nobody was told",
    "claim_committed": "a generation is RUNNING, and its agent was not told",
    "complete_committed": "a result is published, and its agent was not told",
    "requeue_committed": "an attempt was ended, and memory does not know",
    "leader_elected": "the lease is taken, and nothing was done with it",
    "lease_renewed": "the lease is renewed",
    "statement_done": "a statement was carried out, and its caller was not told (raise)",
    "before_triton_call": "an inference is about to be sent",
    "step_done": "a step came back from Triton",
    "model_load_called": "Triton loaded a model, and the agent does not know",
    "model_unload_called": "Triton was told to unload one, and the agent does not know",
    "before_upload": "a file is made, and nothing of it stored",
    "put_done": "an object is stored, and its caller was not told (raise)",
    "upload_done_before_complete": "all files are stored, and the scheduler was not told",
    "webhook_sent_before_mark": "a receiver has answered, and the outbox does not know",
    "create_before_answer": "the scheduler acknowledged, and the gateway did not",
}
_ACTION = re.compile(
    r"(?:(?P<percent>\d+(?:\.\d+)?)%)?(?P<what>exit|stop|raise|sleep\((?P<seconds>\d+(?:\.\d+)?)\))"
    r"(?:@(?P<nth>[1-9]\d*))?"
)


class FailpointError(Exception):
    """What `raise` raises where the point names nothing else."""


@dataclass
class _Armed:
    """What happens at a point."""

    act: Callable[[type[Exception]], None]
    chance: float
    nth: int  # 0: each time
    rng: Random
    times: int = 0

    def pass_by(self, error: type[Exception]) -> None:
        self.times += 1
        if self.nth and self.times != self.nth:
            return
        if self.chance < 1 and self.rng.random() >= self.chance:
            return
        self.act(error)


def failpoint(name: str, error: type[Exception] = FailpointError) -> None:
    """Do what is armed at this point, if anything is.

    Raises:
        error: it says `raise`.
    """
    if armed := _ARMED.get(name):
        armed.pass_by(error)


def parse(text: str) -> dict[str, _Armed]:
    """What is armed, by the names of points.

    Raises:
        ValueError: that is not how it is written, or there is no such point.
    """
    pairs = [part.partition("=") for part in filter(None, (p.strip() for p in text.split(";")))]
    seed = next((value for name, _, value in pairs if name == "seed"), "0")
    return {
        name: _parse_one(name, action, f"{seed}/{name}")
        for name, _, action in pairs
        if name != "seed"
    }


def _parse_one(name: str, action: str, seed: str) -> _Armed:
    if name not in POINTS:
        raise ValueError(f"{VARIABLE}: no point {name!r}; there are {', '.join(POINTS)}")
    found = _ACTION.fullmatch(action)
    if not found:
        raise ValueError(
            f"{VARIABLE}: {name}={action!r}: must be exit, stop, raise or sleep(SECONDS),"
            " with PERCENT% before or @TIME behind it"
        )
    chance = float(found["percent"] or 100) / 100
    rng = Random(seed)  # noqa: S311 - to be repeated, not secret
    return _Armed(_act(found), chance, int(found["nth"] or 0), rng)


def _act(found: re.Match[str]) -> Callable[[type[Exception]], None]:
    what, seconds = found["what"], float(found["seconds"] or 0)

    def act(error: type[Exception]) -> None:
        if what == "exit":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif what == "raise":
            raise error("a failpoint says so")
        else:
            time.sleep(seconds)

    return act


_ARMED = parse(os.environ.get(VARIABLE, ""))
