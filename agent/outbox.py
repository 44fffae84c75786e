"""What waits to be sent to the scheduler: in order, with newer facts in the place of older ones."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from atelier.v1 import agent_pb2 as pb


class Outbox:
    """A queue in which each key has one message, the latest, at the place of the first.

    So it is bounded by what there is to tell (attempts, models, one report), however long the
    scheduler is away or slow, and progress is conflated while no outcome is ever skipped.
    """

    def __init__(self) -> None:
        self._messages: dict[Hashable, pb.ConnectRequest] = {}
        self._filled = asyncio.Event()

    def put(self, key: Hashable, message: pb.ConnectRequest) -> None:
        """Send `message`, in the place of one with the same key that still waits."""
        self._messages[key] = message
        self._filled.set()

    def discard(self, key: Hashable) -> None:
        """Send nothing under `key` after all."""
        self._messages.pop(key, None)

    async def get(self) -> pb.ConnectRequest:
        """The next message, waiting for one."""
        while True:
            self._filled.clear()
            if self._messages:
                return self._messages.pop(next(iter(self._messages)))
            await self._filled.wait()
