"""What a fault is: a way to hurt the running stack for a while and then let go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from tests.faults.stack import Stack

FROZEN_SECONDS = (3.5, 7.0)  # the leader's lease is 3 s
Hurt = Callable[[Stack, Random], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One of a kind (kill, freeze, line, commit, clock, disk, failpoint ...), and what is hurt.

    It returns when it is over: processes thawed, lines whole, disks with room, and what was killed
    left to the supervisor. Whether all is well again is for the run to find out, by a generation
    that is made.
    """

    kind: str
    what: str
    hurt: Hurt

    @property
    def name(self) -> str:
        return f"{self.kind} {self.what}"


class NotReachedError(Exception):
    """What was meant did not come to pass: the run shows nothing of it."""
