"""What clients did and were told, one JSON object a line, written before and after each call."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TextIO

OK, FAIL, UNKNOWN, INVOKE = "ok", "fail", "unknown", "invoke"


@dataclass(frozen=True)
class Told:
    """One line. A call that is `unknown` may have happened or not; `fail` says that it has not.

    at: seconds of the wall clock, which the database's is, too.
    state, result_keys: of the generation, as the answer has them.
    """

    at: float
    client: str
    call: str  # create | cancel | get
    phase: str  # invoke | ok | fail | unknown
    key: str = ""
    id: str = ""
    state: str = ""
    code: str = ""
    result_keys: tuple[str, ...] = ()


class History:
    """Writes to a file, and keeps it in memory."""

    def __init__(self, path: Path) -> None:
        self.told: list[Told] = []
        self._file: TextIO = path.open("w")

    def add(self, client: str, call: str, phase: str, **more: object) -> None:
        told = Told(time.time(), client, call, phase, **more)  # type: ignore[arg-type]
        self.told.append(told)
        self._file.write(json.dumps(asdict(told)) + "\n")

    def count(self, call: str, phase: str) -> int:
        return sum(one.call == call and one.phase == phase for one in self.told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read(path: Path) -> list[Told]:
    """A history that was written."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Told(**{**line, "result_keys": tuple(line["result_keys"])}) for line in lines]
