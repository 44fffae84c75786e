"""A zombie's words: writes about a lost attempt, by the product's own statements, with the token
that the attempt had and under the epoch that leads now. Nothing but the token can refuse them.

A real agent that thaws is told on reconnecting to forget such an attempt, so its words seldom come
as far as the database.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, LiteralString

import psycopg

from atelier.embedded.processes import is_stopped
from atelier.generation import Failure, Provenance, Result
from atelier.generation_store import GenerationStore
from tests.faults.fault import Fault
from tests.faults.stack import Stack, thaw

_RUNNING = (
    "SELECT id::text, lease_token FROM generations WHERE state = 'RUNNING'"
    " AND NOT cancel_requested ORDER BY id LIMIT 1"
)
_NOW = "SELECT lease_token IS NOT DISTINCT FROM %s FROM generations WHERE id = %s"
CAUGHT_SECONDS, LOST_SECONDS, CONNECTIONS = 20.0, 20.0, 1
_RESULT = Result(0, "results/zombie.png", "image/png", 1, 64, 64, "00" * 32, 1)
_BY = Provenance("sha256:0", "zombie", "ddim", "none")
_FAILURE = Failure("INTERNAL", "ZOMBIE", "nobody may ever see this")


def zombie() -> Fault:
    """The agent is frozen in the middle of an attempt until that was given up, and then the attempt
    is published, failed, cancelled and queued again as if it still ran."""

    async def hurt(stack: Stack, _rng: Random) -> None:
        frozen, (name, token) = await _caught(stack)
        try:
            await _lost(stack, name, token)
            stack.refused_words += await _speak(stack, name, token)
        finally:
            thaw(frozen)

    return Fault("zombie", "agent", hurt)


async def _caught(stack: Stack) -> tuple[list[int], tuple[str, int]]:
    """The agent's frozen processes, and an attempt that it then has."""
    async with asyncio.timeout(CAUGHT_SECONDS):
        while True:
            frozen = stack.freeze("agent")
            while not all(is_stopped(pid) for pid in frozen):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if found := _asked(stack, _RUNNING):
                return frozen, (str(found[0]), int(found[1]))
            thaw(frozen)
            await asyncio.sleep(0.1)


async def _lost(stack: Stack, name: str, token: int) -> None:
    async with asyncio.timeout(LOST_SECONDS):
        while _asked(stack, _NOW, token, name) == (True,):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def _speak(stack: Stack, name: str, token: int) -> int:
    """How many words were refused: all, or the fence has a hole.

    Raises:
        AssertionError: one was taken.
    """
    async with GenerationStore(stack.postgres.dsn, connections=CONNECTIONS) as store:
        [store.database.epoch] = _asked(stack, "SELECT epoch FROM leader") or (None,)
        words = [
            await store.publish(name, token, [_RESULT], _BY),
            await store.fail(name, token, _FAILURE),
            await store.cancel_running(name, token),
            await store.requeue(name, token, "ZOMBIE"),
        ]
    assert words == [None] * len(words), f"P3: a zombie's word about {name} was taken: {words}"
    return len(words)


def _asked(stack: Stack, statement: LiteralString, *values: object) -> tuple[Any, ...] | None:
    with psycopg.connect(stack.postgres.dsn) as connection:
        row = connection.execute(statement, values).fetchone()
        return tuple(row) if row else None
