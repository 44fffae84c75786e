"""What every gRPC server and channel of ours has in common.

The options have reasons that cost others days (a frozen peer is found in seconds only with
ping_timeout; more than about 1,000 pending calls are answered CANCELLED by default); the outermost
interceptor maps every error, so that nothing of ours leaks in a message.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from atelier.errors import AtelierError, UnavailableError
from atelier.status import abort, from_rpc_error

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 4 * 2**20
MAX_METADATA_BYTES = 16 * 2**10  # of a call's headers together

# What a call to another part ends with while that part is away. CANCELLED is the other side's, when
# it stops or is overrun: a cancel of ours raises asyncio.CancelledError instead.
_AWAY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


def _keepalive(every_ms: int, timeout_ms: int) -> list[tuple[str, int]]:
    return [
        ("grpc.keepalive_time_ms", every_ms),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),  # else a frozen peer is found after a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


# A frozen leader must be left within seconds; a client that is gone may be found out later.
_KEEPALIVE = _keepalive(2_000, 2_000)

SERVER_OPTIONS = [
    *_keepalive(20_000, 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Both, or what lies between 8 and 16 KiB is refused by chance.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.server_handshake_timeout_ms", 10_000),  # who says nothing, or not all, holds no socket
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ("grpc.so_reuseport", 0),  # two servers on one port is a mistake here
]

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Not only a pause: TCP and HTTP/2 must be set up within it.
    ("grpc.min_reconnect_backoff_ms", 3_000),
]


# A call that found nobody, or somebody who stops, is made again: five times in all, the most that
# gRPC knows, within the call's deadline. Throttled, so that who is overloaded is not asked more:
# while more than 500 such ends are not made up for by twice as many that went well. (gRPC's server
# ends a call as CANCELLED that it has read, but not begun, when it stops.)
# Streams are left out. They are taken up again by who reads them, and each that broke would count
# as such an end: with 51 of them nobody else's call would be made again in a fail-over.
_STREAMS = (
    ("atelier.v1.SchedulerService", "FollowGeneration"),
    ("atelier.v1.FleetService", "WatchFleet"),
)
_AGAIN = {
    "methodConfig": [
        {"name": [{"service": service, "method": method} for service, method in _STREAMS]},
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        },
    ],
    "retryThrottling": {"maxTokens": 1_000, "tokenRatio": 0.5},
}


def channel(
    address: str,
    *,
    keepalive: bool = True,
    own_connection: bool = False,
    again: bool = False,
    largest_answer_bytes: int = 64 * 2**20,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str = "",
) -> grpc.aio.Channel:
    """A channel to another part.

    Args:
        address: host:port; or several IP:port with commas between them, of which one answers at a
            time: a leader and those that stand by.
        keepalive: find out within seconds that the other side is frozen or cut off.
        own_connection: share nothing with other channels to this address: neither their
            connection, nor the back-off that their failures left.
        largest_answer_bytes: what is larger is an error.
        again: make calls again that end as UNAVAILABLE or CANCELLED; for services of which every
            call can be made twice.
        credentials: of TLS; None: it is on loopback, and not encrypted.
        server_name: that the other side's certificate must have; empty: the address's host.
    """
    options: list[tuple[str, Any]] = [*_CHANNEL_OPTIONS, *(_KEEPALIVE if keepalive else ())]
    # The window of a stream stays at 64 KiB: where it may grow, who does not read holds megabytes.
    options.append(("grpc.http2.bdp_probe", 0))
    options.append(("grpc.max_receive_message_length", largest_answer_bytes))
    if own_connection:
        options.append(("grpc.use_local_subchannel_pool", 1))
    if again:
        options.append(("grpc.service_config", json.dumps(_AGAIN)))
    if credentials is None:
        return grpc.aio.insecure_channel(target(address), options=options)
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(target(address), credentials, options=options)


def target(address: str) -> str:
    """What gRPC calls an address, or several."""
    return f"ipv4:{address}" if "," in address else address


def caller_error(error: Exception) -> AtelierError | None:
    """The error as a caller may see it; None where it is a fault of ours."""
    if isinstance(error, AtelierError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        known = from_rpc_error(error)
        if known is not None:
            return known
        if error.code() in _AWAY:
            return UnavailableError(
                "a part of the service is away; try again", retry_after_seconds=1.0
            )
    return None


Handle = Callable[..., Any]


class OncePerMethod(grpc.aio.ServerInterceptor):
    """An interceptor that wraps a method's handler at its first call, and keeps what came of it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[grpc.RpcMethodHandler, grpc.RpcMethodHandler]] = {}

    def wrapped(self, handler: grpc.RpcMethodHandler, method: str) -> grpc.RpcMethodHandler:
        """What answers the calls of a method, by its full name, in place of `handler`."""
        decode, encode = self.decode(handler.request_deserializer), handler.response_serializer
        if handler.unary_unary:
            unary = self.unary(handler.unary_unary, method)
            return grpc.unary_unary_rpc_method_handler(unary, decode, encode)
        if handler.unary_stream:
            stream = self.stream(handler.unary_stream, method)
            return grpc.unary_stream_rpc_method_handler(stream, decode, encode)
        if handler.stream_stream:
            stream = self.stream(self.requests(handler.stream_stream), method)
            return grpc.stream_stream_rpc_method_handler(stream, decode, encode)
        raise NotImplementedError(f"{method}: no call here sends a stream for one answer")

    def unary(self, handle: Handle, method: str) -> Handle:
        """In place of what gives one answer."""
        raise NotImplementedError

    def stream(self, handle: Handle, method: str) -> Handle:
        """In place of what gives several."""
        raise NotImplementedError

    def decode(self, decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """In place of what reads a request."""
        return decode

    def requests(self, handle: Handle) -> Handle:
        """In place of what takes a stream of requests."""
        return handle

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        if handler is None:  # nobody's method: nothing is kept of what callers make up
            return handler
        known = self._known.get(details.method)
        if known is None or known[0] is not handler:
            known = self._known[details.method] = handler, self.wrapped(handler, details.method)
        return known[1]


class ErrorInterceptor(OncePerMethod):
    """Outermost: turns every exception of a handler into a status that may be shown."""

    def unary(self, handle: Handle, method: str) -> Handle:
        return _guard_unary(handle, method)

    def stream(self, handle: Handle, method: str) -> Handle:
        return _guard_stream(handle, method)

    def decode(self, decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        return _guard_decode(decode)

    def requests(self, handle: Handle) -> Handle:
        return _readable(handle)


async def answers_of(
    handle: Handle, request: Any, context: grpc.aio.ServicerContext
) -> AsyncGenerator[Any, None]:
    """What a handler of several answers gives, whichever of the two ways it has."""
    answers = handle(request, context)
    if not inspect.isasyncgen(answers):  # the health and reflection services write instead
        await answers
        return
    async with aclosing(answers):  # a call may be cut off while an answer is sent
        async for answer in answers:
            yield answer


def _guard_decode(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A request that is no protobuf becomes INVALID_ARGUMENT, not UNKNOWN with our insides."""

    def guarded(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:
            return None

    return guarded


def _readable(handle: Handle) -> Handle:
    """A message of a stream that is no protobuf ends it with INVALID_ARGUMENT too."""

    async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            _check(request)
            yield request

    return lambda requests, context: handle(checked(requests), context)


def _guard_unary(handle: Handle, method: str) -> Handle:
    async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            _check(request)
            return await handle(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await abort(context, shown_error(error, method))

    return guarded


def _guard_stream(handle: Handle, method: str) -> Handle:
    async def guarded(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        try:
            _check(request)
            async with aclosing(answers_of(handle, request, context)) as answers:
                async for answer in answers:
                    yield answer
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await abort(context, shown_error(error, method))

    return guarded


def _check(request: Any) -> None:
    if request is None:
        error = AtelierError("the request is not a valid protobuf message", reason="UNREADABLE")
        error.code = "INVALID_ARGUMENT"
        raise error


def shown_error(error: Exception, method: str) -> AtelierError:
    """What the caller is told; the log has one line with the reason."""
    shown = caller_error(error)
    if shown is None:
        incident = secrets.token_hex(4)
        log.error("call failed", method=method, incident=incident, exc_info=error)
        return AtelierError(f"internal error, id={incident}", metadata={"incident": incident})
    if not shown.in_log:
        return shown
    fields = [v.field for v in shown.violations]
    log.info("call refused", method=method, code=shown.code, reason=shown.reason,
             fields=fields, detail=shown.message)  # fmt: skip
    return shown
