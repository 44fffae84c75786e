"""A channel whose calls go by another one, which is found anew for each; with metadata of its own.

For what gRPC cannot change in a channel that stands: its certificate, once the file was replaced.
And for an API key on a line without TLS, where gRPC's own way of showing one refuses. For keys an
interceptor would do, but it wraps each call and its stream in others; here they are the inner
channel's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc

Metadata = Sequence[tuple[str, str]]


def bearer(key: str) -> Metadata:
    """What shows an API key."""
    return (("authorization", f"Bearer {key}"),) if key else ()


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
            return made[1](*request, metadata=(*self._metadata, *(metadata or ())), **options)

        return call

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
