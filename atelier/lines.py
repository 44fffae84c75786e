"""Channels whose calls go by another one, which is found anew for each; with metadata of their own.

For what gRPC cannot change in a channel that stands: its certificate, once the file was replaced.
And for an API key on a line without TLS, where gRPC's own way of showing one refuses. For keys an
interceptor would do, but it wraps each call and its stream in others; here they are the inner
channel's own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import structlog

from atelier import rpc
from atelier.tls import PeerFiles

log = structlog.get_logger()

Metadata = Sequence[tuple[str, str]]
LOOK_SECONDS = 1.0


def bearer(key: str) -> Metadata:
    """What shows an API key."""
    return (("authorization", f"Bearer {key}"),) if key else ()


def line_to_peer(
    address: str, peers: PeerFiles | None, server_name: str = "", *, again: bool = False
) -> grpc.aio.Channel:
    """A line to another part of ours that shows its certificate as it is at each time.

    Args:
        peers: None: the line is plain.
        server_name, again: as `rpc.channel` has them.

    Raises:
        OSError: a file cannot be read, or certificate and key do not belong together.
    """
    if peers is None:
        return rpc.channel(address, again=again)

    def opened() -> grpc.aio.Channel:
        credentials = peers.of_client()
        return rpc.channel(address, again=again, credentials=credentials, server_name=server_name)

    return RenewedChannel(opened, peers.stamps)


class PassingChannel(grpc.aio.Channel):
    """Passes every call on.

    Args:
        current: the channel that the next call goes by.
        metadata: is sent with each, before the call's own.
    """

    def __init__(self, current: Callable[[], grpc.aio.Channel], metadata: Metadata = ()) -> None:
        self._current = current
        self._metadata = tuple(metadata)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._passed_on("unary_unary", method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._passed_on("unary_stream", method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._passed_on("stream_unary", method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._passed_on("stream_stream", method, *args, **kwargs)

    def _passed_on(self, kind: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        made: tuple[grpc.aio.Channel, Callable[..., Any]] | None = None

        def call(*request: Any, metadata: Metadata | None = None, **options: Any) -> Any:
            nonlocal made
            channel = self._current()
            if made is None or made[0] is not channel:
                made = channel, getattr(channel, kind)(*args, **kwargs)
            begun = made[1](*request, metadata=(*self._metadata, *(metadata or ())), **options)
            self._begun(channel, begun)
            return begun

        return call

    def _begun(self, channel: grpc.aio.Channel, call: Any) -> None:
        """A call goes by `channel`."""

    async def close(self, grace: float | None = None) -> None:
        await self._current().close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._current().channel_ready()

    async def __aenter__(self) -> PassingChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class RenewedChannel(PassingChannel):
    """Opens another channel when what it was opened with has changed; calls under way go on.

    Args:
        opened: opens one. An OSError leaves the one before.
        stamp: differs when it is to be opened anew; looked at once in LOOK_SECONDS at most.
    """

    def __init__(
        self,
        opened: Callable[[], grpc.aio.Channel],
        stamp: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(self._renewed)
        self._opened = opened
        self._stamp = stamp
        self._clock = clock
        self._seen = stamp()
        self._now = opened()
        self._under_way: Counter[grpc.aio.Channel] = Counter()
        self._look_again = clock() + LOOK_SECONDS
        self._closing: set[asyncio.Task[None]] = set()

    def _renewed(self) -> grpc.aio.Channel:
        if self._clock() >= self._look_again:
            self._look_again = self._clock() + LOOK_SECONDS
            try:
                if (stamp := self._stamp()) != self._seen:
                    before, self._now = self._now, self._opened()
                    self._seen = stamp
                    log.info("certificate changed: the next calls show the new one")
                    self._close_idle(before)
            except OSError as error:
                log.warning("certificate cannot be read, the one before stays", error=str(error))
        return self._now

    def _begun(self, channel: grpc.aio.Channel, call: Any) -> None:
        self._under_way[channel] += 1
        call.add_done_callback(lambda _: self._ended(channel))

    def _ended(self, channel: grpc.aio.Channel) -> None:
        self._under_way[channel] -= 1
        self._close_idle(channel)

    def _close_idle(self, channel: grpc.aio.Channel) -> None:
        if channel is not self._now and not self._under_way[channel]:
            del self._under_way[channel]
            task = asyncio.create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self, grace: float | None = None) -> None:
        for channel in {self._now, *self._under_way}:
            await channel.close(grace)
        await asyncio.gather(*self._closing)
