"""In the place of atelier.database.Database: over tables that all processes of a world share.

Every statement takes its time, there and back, and is carried out at one moment in between. Who
sent it may be told failure though it was written; or nothing for `answer_seconds`, and it is
written at once, never, or long after.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, Self

from atelier.database import ANSWER_SECONDS
from atelier.errors import DeposedError, UnavailableError
from tests.simulated.loop import PROCESS, apart


class SimDatabase:
    """One process's line to the tables; `epoch` as the real one's."""

    def __init__(
        self, dsn: str, *, connections: int = 8, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self.epoch: int | None = None
        self._answer_seconds = answer_seconds
        process = PROCESS.get()
        assert process
        self._process, self._world = process, process.world

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def measure(self, *_: object, **__: object) -> None:
        """Nobody looks."""

    async def rows(self, query: str, **arguments: Any) -> list[Mapping[str, Any]]:
        if self._process.buried:
            raise UnavailableError("nothing answers the dead")
        world, loop = self._world, self._world.loop
        answer = loop.create_future()
        given = {"epoch": self.epoch, **arguments}
        fault = _drawn(world.rng, world.store_faults)
        if self._process in world.cut_off:
            fault = "hangs"
        if fault:
            world.faults[f"store: {fault}"] += 1
        world.tell(f"{self._process.name} {query} {arguments.get('id', '')} {fault}")

        def settle(rows: Any, error: Exception | None) -> None:
            if not answer.done():
                if error:
                    answer.set_exception(error)
                else:
                    answer.set_result(rows)

        def away() -> UnavailableError:
            return UnavailableError("the database is away; try again", retry_after_seconds=1.0)

        def execute() -> None:
            rows, error = None, None
            try:
                rows = world.tables.run(query, given)
            except DeposedError as deposed:
                error = deposed
            if fault == "wrote, told failure":
                error = away()
            if fault not in ("hangs, writes", "hangs, writes late"):
                apart(loop, world.delay(), lambda: settle(rows, error))

        if fault == "fails":
            apart(loop, world.delay(), lambda: settle(None, away()))
        elif fault and fault.startswith("hangs"):
            apart(loop, self._answer_seconds, lambda: settle(None, away()))
            late = (
                self._answer_seconds + world.rng.uniform(0, 10) if fault.endswith("late") else 0.0
            )
            if fault != "hangs":
                apart(loop, late, execute)
        else:
            apart(loop, world.delay(), execute)
        began = loop.now
        given_rows: list[Mapping[str, Any]] = await answer
        if given_rows and query in ("lead", "renew"):
            world.lease_ends[self._process] = began + arguments["lease_seconds"]
        return given_rows


def _drawn(rng: Random, chances: Mapping[str, float]) -> str:
    """One of the faults, or none (empty)."""
    draw = rng.random()
    for fault, chance in chances.items():
        draw -= chance
        if draw < 0:
            return fault
    return ""
