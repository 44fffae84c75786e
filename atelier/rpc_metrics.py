"""How long calls take, and how they end: one histogram, of which rate and errors follow."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
from opentelemetry.metrics import Meter

from atelier.instruments import RPC_DURATION
from atelier.metrics import histogram
from atelier.rpc import Handle, OncePerMethod

# Tells a balancer every second that all is well, and operators' tools what there is.
_UNTOLD = ("/grpc.health.", "/grpc.reflection.")

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class MeasuringInterceptor(OncePerMethod):
    """Goes before the errors' interceptor: it tells what the caller was told.

    The label is a method that is served; calls of others are not told, so that no caller makes
    series.
    """

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._took = histogram(meter, RPC_DURATION)
        self._clock = clock

    def wrapped(self, handler: grpc.RpcMethodHandler, method: str) -> grpc.RpcMethodHandler:
        if method.startswith(_UNTOLD):
            return handler
        return super().wrapped(handler, method.removeprefix("/"))

    def unary(self, handle: Handle, method: str) -> Handle:
        async def measured(request: Any, context: grpc.aio.ServicerContext) -> Any:
            began, code = self._clock(), "CANCELLED"
            try:
                answer = await handle(request, context)
                code = _code(context)
                return answer
            except grpc.aio.AbortError:
                code = _code(context)
                raise
            finally:
                self._tell(began, method, code)

        return measured

    def stream(self, handle: Handle, method: str) -> Handle:
        async def measured(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            began, code = self._clock(), "CANCELLED"
            try:
                async with aclosing(handle(request, context)) as answers:
                    async for answer in answers:
                        yield answer
                code = _code(context)
            except grpc.aio.AbortError:
                code = _code(context)
                raise
            finally:
                self._tell(began, method, code)

        return measured

    def _tell(self, began: float, method: str, code: str) -> None:
        labels = {"rpc.method": method, "rpc.response.status_code": code}
        self._took.record(self._clock() - began, labels)


def _code(context: grpc.aio.ServicerContext) -> str:
    """The status that the call ended with, by its name; a handler that set none ended well."""
    code = context.code()  # a number, where the handler did not say it by name
    return str(code.name) if isinstance(code, grpc.StatusCode) else _NAMES.get(code, "OK")
