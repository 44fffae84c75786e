"""Channels whose calls go by another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from atelier.lines import LOOK_SECONDS, PassingChannel, RenewedChannel, bearer


class Call:
    def __init__(self) -> None:
        self._done: list[Callable[[Any], None]] = []

    def add_done_callback(self, done: Callable[[Any], None]) -> None:
        self._done.append(done)

    def end(self) -> None:
        for done in self._done:
            done(self)


class Inner(grpc.aio.Channel):
    """Counts what goes by it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.closed = False

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        def call(request: object, metadata: Any = (), **options: object) -> Call:
            self.calls.append((args[0], request, [*metadata], options))
            return Call()

        return call

    unary_stream = stream_unary = stream_stream = unary_unary

    async def close(self, grace: float | None = None) -> None:
        self.closed = True

    async def __aenter__(self) -> Inner:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> Any: ...
    async def wait_for_state_change(self, last_observed_state: Any) -> None: ...
    async def channel_ready(self) -> None: ...


def test_every_call_shows_the_key_before_its_own_metadata() -> None:
    inner = Inner()
    passing = PassingChannel(lambda: inner, bearer("atk"))
    for kind in ("unary_unary", "unary_stream"):
        getattr(passing, kind)("/m")("request", metadata=[("a", "b")], timeout=3)
        getattr(passing, kind)("/m")("request")
    shown = ("authorization", "Bearer atk")
    first, second = (
        ("/m", "request", [shown, ("a", "b")], {"timeout": 3}),
        ("/m", "request", [shown], {}),
    )
    assert inner.calls == [first, second] * 2
    assert bearer("") == ()


class Renewed:
    """A channel over files that the test changes."""

    def __init__(self) -> None:
        self.now, self.stamp, self.made = 0.0, 0, list[Inner]()
        self.readable = True
        self.line = RenewedChannel(self._opened, lambda: self.stamp, lambda: self.now)
        self.ask = self.line.unary_unary("/m")

    def _opened(self) -> Inner:
        if not self.readable:
            raise OSError("no such file")
        self.made.append(Inner())
        return self.made[-1]

    def change(self) -> None:
        self.stamp += 1
        self.now += LOOK_SECONDS


async def test_a_call_under_way_keeps_its_channel() -> None:
    renewed = Renewed()
    under_way = renewed.ask("first")
    renewed.change()
    renewed.ask("second").end()
    first, second = renewed.made
    assert [len(first.calls), len(second.calls)] == [1, 1]
    await asyncio.sleep(0)
    assert not first.closed
    under_way.end()
    await asyncio.sleep(0)
    assert first.closed and not second.closed
    await renewed.line.close()
    assert second.closed


async def test_files_are_looked_at_once_a_second_and_those_that_cannot_be_read_change_nothing() -> (
    None
):
    renewed = Renewed()
    renewed.stamp += 1
    renewed.ask("at once")
    assert len(renewed.made) == 1
    renewed.readable = False
    renewed.change()
    renewed.ask("later")
    assert len(renewed.made[0].calls) == 2
    renewed.readable = True
    renewed.now += LOOK_SECONDS
    renewed.ask("when they are there")
    assert len(renewed.made) == 2
    await renewed.line.close()
    assert all(inner.closed for inner in renewed.made)
