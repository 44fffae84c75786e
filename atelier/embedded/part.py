"""What a part is: laid out on disk, started as a process, and asked whether it answers."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class PartError(Exception):
    """A part cannot be prepared or started. The message says why, and what to do about it."""


class NotReadyError(Exception):
    """A part does not answer as it should, for now. The message says what happened instead."""


@dataclass(frozen=True)
class Identity:
    """A user of this machine, as the kernel knows it."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """How a part is started. `environment` is all that it gets."""

    argv: tuple[str, ...]
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    run_as: Identity | None = None  # only root can ask for another


class Part(ABC):
    """One process of the stack.

    `prepare` and `probe` block, and are called from worker threads, never two of one part at a
    time. Addresses do not change while the part lives, whatever happens to its process: clients
    connect again to where it was.
    """

    name: str
    address: str  # empty: it listens to nobody
    pid_file: Path | None = None  # where its process is named, for who may have to end it
    needs: tuple[str, ...] = ()  # names of the parts that must answer before this one is started
    start_seconds = 60.0  # for its first answer
    stop_signal = signal.SIGTERM
    orphan_signal = signal.SIGTERM  # from the kernel, should we die before it
    stop_seconds = 10.0  # from the signal to the kill

    def prepare(self) -> None:
        """Lay out what it needs on disk. Called before every start; cheap when nothing is missing.

        Raises:
            PartError: it can never start like this.
        """
        return

    @abstractmethod
    def command(self) -> Command:
        """Its command line."""

    @abstractmethod
    def probe(self) -> None:
        """Use it as its clients do, within a few seconds.

        Raises:
            NotReadyError: it does not answer.
        """


def minimal_environment(**more: str) -> dict[str, str]:
    """What a program that is not ours needs to know of our environment."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "TZ") if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", **more}
